import type { ExpertMatrices } from './expert.ts';

/** Shares of a group's members in their mean: by usage, or equal where none of them was ever used. */
export function mergeShares(frequency: Float64Array, members: readonly number[]): number[] {
  const total = members.reduce((sum, expert) => sum + (frequency[expert] as number), 0);
  return members.map((expert) => (total > 0 ? (frequency[expert] as number) / total : 1 / members.length));
}

/** Sums aligned experts by their shares, one at a time: the frequency-weighted mean of MC-SMoE, section 3.2. */
export class ExpertMean {
  #sum: { gate: Float64Array | undefined; up: Float64Array; down: Float64Array } | undefined;
  #size = { width: 0, hidden: 0 };

  add(expert: ExpertMatrices, share: number): void {
    this.#size = { width: expert.width, hidden: expert.hidden };
    this.#sum ??= {
      gate: expert.gate && new Float64Array(expert.gate.length),
      up: new Float64Array(expert.up.length),
      down: new Float64Array(expert.down.length),
    };
    if (expert.gate && this.#sum.gate) addScaled(this.#sum.gate, expert.gate, share);
    addScaled(this.#sum.up, expert.up, share);
    addScaled(this.#sum.down, expert.down, share);
  }

  mean(): ExpertMatrices {
    const { gate, up, down } = this.#sum ?? { gate: undefined, up: [], down: [] };
    return {
      ...this.#size,
      gate: gate && Float32Array.from(gate),
      up: Float32Array.from(up),
      down: Float32Array.from(down),
    };
  }
}

function addScaled(to: Float64Array, from: Float32Array, factor: number): void {
  for (let i = 0; i < from.length; i++) to[i] = (to[i] as number) + factor * (from[i] as number);
}
