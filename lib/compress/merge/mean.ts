import { MoeError } from '../../errors.ts';
import type { ExpertMatrices } from '../expert.ts';

export interface ShareOptions {
  /**
   * Added to the divisor, as the published code has it (10⁻⁷ in MC-SMoE and HC-SMoE, 1.19·10⁻⁷ in REAP): it shrinks
   * rare groups, and makes zeros of unused ones. Only for comparison with that code. Default 0.
   */
  readonly epsilon?: number;
}

/**
 * Shares of a group's members in their mean, by their weights: usage (MC-SMoE, section 3.2), saliency (REAM), or any
 * other. They add up to 1; where no member has any weight they are equal.
 *
 * @param weights [experts], 0 or more
 */
export function mergeShares(
  weights: ArrayLike<number>,
  members: readonly number[],
  { epsilon = 0 }: ShareOptions = {},
): number[] {
  const total = members.reduce((sum, expert) => sum + weightOf(weights, expert), epsilon);
  return members.map((expert) => (total > 0 ? (weights[expert] as number) / total : 1 / members.length));
}

/** Equal weights of all experts: the plain mean. */
export function uniformWeights(experts: number): Float64Array {
  return new Float64Array(experts).fill(1);
}

/** Weights that favour what is used least, 1 − usage: an ablation of MC-SMoE. */
export function reversedWeights(frequency: Float64Array): Float64Array {
  return frequency.map((usage) => 1 - usage);
}

function weightOf(weights: ArrayLike<number>, expert: number): number {
  const weight = weights[expert];
  if (weight !== undefined && weight >= 0 && weight < Number.POSITIVE_INFINITY) return weight;
  throw new MoeError('INVALID_ARGUMENT', {
    argument: `weights[${expert}]`,
    expected: 'a number of 0 or more',
    received: String(weight),
  });
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
