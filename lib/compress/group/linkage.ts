import { MoeError } from '../../errors.ts';
import { renumber } from './labels.ts';

/**
 * How far two clusters are: `average`: mean over all pairs; `single`: the nearest pair; `complete`: the farthest;
 * `ward`: by how much joining them raises the squared distances to the mean, for Euclidean distances.
 */
export type Linkage = 'average' | 'single' | 'complete' | 'ward';

/** Distance of cluster k from the union of i and j (Lance and Williams, 1967). */
const updates: Record<Linkage, (ik: number, jk: number, ij: number, i: number, j: number, k: number) => number> = {
  average: (ik, jk, _, i, j) => (i * ik + j * jk) / (i + j),
  single: (ik, jk) => Math.min(ik, jk),
  complete: (ik, jk) => Math.max(ik, jk),
  ward: (ik, jk, ij, i, j, k) => Math.sqrt(((i + k) * ik * ik + (j + k) * jk * jk - k * ij * ij) / (i + j + k)),
};

/** Two clusters that became one; each goes by its lowest member. */
export interface Join {
  readonly low: number;
  readonly high: number;
  /** How far they were. */
  readonly gap: number;
}

/**
 * Agglomerative clustering down to one cluster: the two nearest are joined, one join after the other. Among equal distances the lowest
 * indices are joined first.
 *
 * @param distances f64 [points, points], symmetric
 * @throws MoeError INVALID_ARGUMENT for distances that are no numbers
 */
export function joinsOf(distances: Float64Array, points: number, linkage: Linkage): Join[] {
  if (distances.length !== points * points || distances.some(Number.isNaN)) {
    throw new MoeError('INVALID_ARGUMENT', {
      argument: 'distances',
      expected: `${points} × ${points} numbers`,
      received: distances.length === points * points ? 'NaN' : `${distances.length} values`,
    });
  }
  const between = Float64Array.from(distances);
  // A cluster goes by its lowest member; the others of it are out of the race.
  const size = new Int32Array(points).fill(1);
  const joins: Join[] = [];
  while (joins.length < points - 1) {
    const [low, high] = nearest(between, size);
    const gap = between[low * points + high] as number;
    for (let other = 0; other < points; other++) {
      if (size[other] === 0 || other === low || other === high) continue;
      const joined = updates[linkage](
        between[low * points + other] as number,
        between[high * points + other] as number,
        gap,
        size[low] as number,
        size[high] as number,
        size[other] as number,
      );
      between[low * points + other] = joined;
      between[other * points + low] = joined;
    }
    size[low] = (size[low] as number) + (size[high] as number);
    size[high] = 0;
    joins.push({ low, high, gap });
  }
  return joins;
}

/** Labels 0 … of the points after some joins, in the order of their first members. */
function labelsAfter(joins: readonly Join[], points: number): Int32Array {
  const label = Int32Array.from({ length: points }, (_, point) => point);
  for (const { low, high } of joins) {
    label.forEach((own, point) => {
      if (own === high) label[point] = low;
    });
  }
  return renumber(label);
}

/**
 * Agglomerative clustering until `clusters` remain.
 *
 * @param distances f64 [points, points], symmetric
 * @returns i32 [points]: labels 0 … clusters − 1 in the order of their first members
 * @throws MoeError INVALID_ARGUMENT for a count out of range or distances that are no numbers
 */
export function agglomerate(distances: Float64Array, points: number, clusters: number, linkage: Linkage): Int32Array {
  requireCount(clusters, 1, points);
  return labelsAfter(joinsOf(distances, points, linkage).slice(0, points - clusters), points);
}

/**
 * Clusters several layers under one budget: each by itself, the nearest two clusters of all layers first, until `clusters` remain in all
 * (the joint clustering of REAP's baselines). Of equally near ones the first layer's are joined.
 *
 * @param distances of each layer, f64 [points, points]; layers may differ in points
 * @returns of each layer, as {@link agglomerate}
 */
export function agglomerateJointly(
  distances: readonly Float64Array[],
  clusters: number,
  linkage: Linkage,
): Int32Array[] {
  const points = distances.map(({ length }) => Math.sqrt(length));
  const total = points.reduce((sum, count) => sum + count, 0);
  requireCount(clusters, distances.length, total);
  const joins = distances.map((layer, at) => joinsOf(layer, points[at] as number, linkage));
  const taken = joins.map(() => 0);
  const gapOf = (layer: number): number => joins[layer]?.[taken[layer] as number]?.gap ?? Number.POSITIVE_INFINITY;
  for (let left = total; left > clusters; left--) {
    const next = taken.reduce((best, _, layer) => (gapOf(layer) < gapOf(best) ? layer : best), 0);
    taken[next] = (taken[next] as number) + 1;
  }
  return joins.map((own, layer) => labelsAfter(own.slice(0, taken[layer]), points[layer] as number));
}

function requireCount(clusters: number, least: number, most: number): void {
  if (Number.isInteger(clusters) && clusters >= least && clusters <= most) return;
  throw new MoeError('INVALID_ARGUMENT', {
    argument: 'clusters',
    expected: `an integer of ${least} … ${most}`,
    received: String(clusters),
  });
}

function nearest(between: Float64Array, size: Int32Array): [low: number, high: number] {
  const points = size.length;
  let best: [number, number] = [-1, -1];
  let least = Number.POSITIVE_INFINITY;
  for (let low = 0; low < points; low++) {
    if (size[low] === 0) continue;
    for (let high = low + 1; high < points; high++) {
      const distance = between[low * points + high] as number;
      if (size[high] !== 0 && (distance < least || best[0] < 0)) {
        least = distance;
        best = [low, high];
      }
    }
  }
  return best;
}
