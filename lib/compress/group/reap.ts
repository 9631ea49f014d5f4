import { MoeError } from '../../errors.ts';
import { cosine } from './similarity.ts';

/**
 * Distances that REAP's port of M-SMoE groups by: the angle, over π, between rows of the matrix of cosine distances of
 * router-logit columns. Experts are alike where they are equally far from all others, not where their own logits agree.
 *
 * @param gram ZᵀZ of the raw router logits, f64 [experts, experts]
 * @returns f64 [experts, experts], 0 … 1
 */
export function reapDistances(gram: Float64Array, experts: number): Float64Array {
  const apart = Float64Array.from({ length: experts * experts }, (_, at) => {
    const [a, b] = [Math.floor(at / experts), at % experts];
    return a === b ? 0 : 1 - cosine(gram, experts, a, b);
  });
  const rows = new Float64Array(experts * experts);
  for (let a = 0; a < experts; a++) {
    for (let b = 0; b < experts; b++) {
      for (let i = 0; i < experts; i++) {
        rows[a * experts + b] =
          (rows[a * experts + b] as number) + (apart[a * experts + i] as number) * (apart[b * experts + i] as number);
      }
    }
  }
  return rows.map((_, at) => {
    const [a, b] = [Math.floor(at / experts), at % experts];
    return a === b ? 0 : Math.acos(cosine(rows, experts, a, b)) / Math.PI;
  });
}

/**
 * Groups of each layer that fill the budget exactly: every layer's most used expert, then the most used of all that are
 * left. Equal usage goes to the earlier layer and the lower index. MC-SMoE's own rule (`groupsPerLayer`) may stay below
 * its budget.
 *
 * @param frequencies usage of each layer, [experts] each
 * @param total groups of all layers together
 * @throws MoeError RECIPE_INVALID where a layer would get none, or more than its experts are asked for
 */
export function filledGroupsPerLayer(frequencies: readonly Float64Array[], total: number): number[] {
  const all = frequencies.reduce((sum, usage) => sum + usage.length, 0);
  if (!(Number.isInteger(total) && total >= frequencies.length && total <= all)) {
    throw new MoeError('RECIPE_INVALID', {
      argument: 'groups',
      expected: `${frequencies.length} … ${all} groups in all`,
      received: String(total),
    });
  }
  const groups = frequencies.map(() => 1);
  const others = frequencies.flatMap((usage, layer) =>
    Array.from(Float64Array.from(usage).sort().reverse().subarray(1), (used) => ({ layer, used })),
  );
  others.sort((a, b) => b.used - a.used || a.layer - b.layer);
  for (const { layer } of others.slice(0, total - frequencies.length)) groups[layer] = (groups[layer] as number) + 1;
  return groups;
}
