import { membersByLabel } from './labels.ts';
import { agglomerate, type Linkage } from './linkage.ts';

/** Euclidean distances of rows [points, columns], f64 [points, points]. */
export function euclideanDistances(rows: Float32Array | Float64Array, points: number): Float64Array {
  const columns = rows.length / points;
  const distances = new Float64Array(points * points);
  for (let a = 0; a < points; a++) {
    for (let b = 0; b < a; b++) {
      let sum = 0;
      for (let column = 0; column < columns; column++) {
        sum += ((rows[a * columns + column] as number) - (rows[b * columns + column] as number)) ** 2;
      }
      distances[a * points + b] = Math.sqrt(sum);
      distances[b * points + a] = Math.sqrt(sum);
    }
  }
  return distances;
}

/**
 * HC-SMoE's groups (arXiv 2410.08589, section 3.2): hierarchical clustering of the experts' mean outputs, the same
 * count in every layer.
 *
 * @param meanOutputs [experts, hidden]: the mean of each expert's output over **all** tokens, without gates
 * @param linkage `average` is the method's own choice
 * @returns i32 [experts]: labels in the order of their first members
 */
export function hcSmoeGroups(
  meanOutputs: Float32Array | Float64Array,
  experts: number,
  groups: number,
  linkage: Linkage = 'average',
): Int32Array {
  return agglomerate(euclideanDistances(meanOutputs, experts), experts, groups, linkage);
}

/** Two members are equally near to their mean, but for rounding. */
const nearer = 1 - 1e-9;

/**
 * The member of each group that is nearest to the group's mean, by label; the lower index where two are equally near.
 */
export function centralMembers(meanOutputs: Float32Array | Float64Array, labels: Int32Array): number[] {
  const columns = meanOutputs.length / labels.length;
  return membersByLabel(labels).map((members) => {
    const mean = Float64Array.from(
      { length: columns },
      (_, column) =>
        members.reduce((sum, expert) => sum + (meanOutputs[expert * columns + column] as number), 0) / members.length,
    );
    const squared = (expert: number): number =>
      mean.reduce((sum, value, column) => sum + (value - (meanOutputs[expert * columns + column] as number)) ** 2, 0);
    return members.reduce((best, expert) => (squared(expert) < squared(best) * nearer ? expert : best));
  });
}
