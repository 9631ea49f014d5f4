/**
 * The router after experts were merged or pruned. Rows are [experts, hidden]; a bias that only takes part in the choice
 * (DeepSeek's correction bias) is treated like rows of one column. Four forms are in use:
 *
 * - every row stays, and an expert's id leads to its group's slot: nothing to do here (MC-SMoE, HC-SMoE, MergeMoE);
 * - the rows of the dominant, central or kept experts stay: {@link selectRows} (REAP, REAM, NAEE);
 * - weighted means of the members' rows: {@link meanRows} (the MC-SMoE port of MoNE);
 * - the shape stays and dropped experts are never chosen: {@link dropMask} (prune-drop of MC-SMoE, NAEE's search).
 */
import { MoeError } from '../../errors.ts';
import { mergeShares } from '../merge/mean.ts';
import { membersByLabel } from './labels.ts';

/** Row i of the result is row experts[i]; slot i of the layer has to be that expert's. */
export function selectRows(rows: Float32Array, total: number, experts: readonly number[]): Float32Array {
  const columns = columnsOf(rows, total);
  const selected = new Float32Array(experts.length * columns);
  experts.forEach((expert, slot) => {
    if (!(Number.isInteger(expert) && expert >= 0 && expert < total)) {
      throw new MoeError('INVALID_ARGUMENT', {
        argument: `experts[${slot}]`,
        expected: `0 … ${total - 1}`,
        received: String(expert),
      });
    }
    selected.set(rows.subarray(expert * columns, (expert + 1) * columns), slot * columns);
  });
  return selected;
}

/**
 * Row g of the result is the mean of the rows of label g, weighted by usage; the plain mean where none of them was
 * used.
 */
export function meanRows(rows: Float32Array, labels: ArrayLike<number>, frequency: Float64Array): Float32Array {
  const columns = columnsOf(rows, labels.length);
  const groups = membersByLabel(labels);
  const means = new Float32Array(groups.length * columns);
  for (const [group, members] of groups.entries()) {
    const shares = mergeShares(frequency, members);
    for (let column = 0; column < columns; column++) {
      means[group * columns + column] = members.reduce(
        (sum, expert, at) => sum + (shares[at] as number) * (rows[expert * columns + column] as number),
        0,
      );
    }
  }
  return means;
}

/** f32 [total]: what is added to the logits: 0 for the kept experts, −∞ for the others. */
export function dropMask(total: number, kept: readonly number[]): Float32Array {
  const mask = new Float32Array(total).fill(Number.NEGATIVE_INFINITY);
  for (const expert of kept) mask[expert] = 0;
  return mask;
}

function columnsOf(rows: Float32Array, total: number): number {
  if (total > 0 && rows.length > 0 && rows.length % total === 0) return rows.length / total;
  throw new MoeError('INVALID_ARGUMENT', {
    argument: 'rows',
    expected: `rows of ${total} experts`,
    received: `${rows.length} values`,
  });
}
