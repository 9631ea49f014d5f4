import type { ExpertMatrices } from '../expert.ts';

/** Guards entries whose weights are all zero; the published code has the same. */
const epsilon = 1e-7;

/**
 * The mean of experts with a weight of its own for every entry, W = Σ F·W / (Σ F + 10⁻⁷): F is Fisher information, the
 * mean squared gradient (Matena and Raffel, 2022; a baseline of MC-SMoE). It favours entries that the loss depends on.
 */
export class FisherMean {
  #sums: Record<'gate' | 'up' | 'down', { weighted: Float64Array; weights: Float64Array } | undefined> | undefined;
  #size = { width: 0, hidden: 0 };

  /** @param information shaped like the expert, in its order of neurons, 0 or more */
  add(expert: ExpertMatrices, information: ExpertMatrices): void {
    this.#size = { width: expert.width, hidden: expert.hidden };
    this.#sums ??= { gate: undefined, up: undefined, down: undefined };
    for (const matrix of ['gate', 'up', 'down'] as const) {
      const [values, weights] = [expert[matrix], information[matrix]];
      if (!values || !weights) continue;
      this.#sums[matrix] ??= { weighted: new Float64Array(values.length), weights: new Float64Array(values.length) };
      const sum = this.#sums[matrix];
      for (let i = 0; i < values.length; i++) {
        sum.weighted[i] = (sum.weighted[i] as number) + (values[i] as number) * (weights[i] as number);
        sum.weights[i] = (sum.weights[i] as number) + (weights[i] as number);
      }
    }
  }

  mean(): ExpertMatrices {
    const of = (matrix: 'gate' | 'up' | 'down'): Float32Array | undefined => {
      const sum = this.#sums?.[matrix];
      return sum && Float32Array.from(sum.weighted, (value, i) => value / ((sum.weights[i] as number) + epsilon));
    };
    return {
      ...this.#size,
      gate: of('gate'),
      up: of('up') ?? new Float32Array(),
      down: of('down') ?? new Float32Array(),
    };
  }
}
