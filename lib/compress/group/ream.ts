import { MoeError } from '../../errors.ts';
import { cosine } from './similarity.ts';

/** Sums of one layer that REAM groups by. */
export interface ReamStatistics {
  /** [experts]: what an expert gives on its tokens on average; see `reamStatistics`. */
  readonly saliency: Float64Array;
  /**
   * V·Vᵀ of the experts' mean outputs V over all tokens, times the full softmax gate or plain; f64 [experts, experts].
   */
  readonly outputGram: Float64Array;
  /** ZᵀZ of the raw router logits Z, f64 [experts, experts]; absent: outputs alone decide. */
  readonly logitGram?: Float64Array;
}

export interface ReamGroups {
  /** i32 [experts]: rank of the centroid by saliency. */
  readonly labels: Int32Array;
  /** [groups]: the centroid of each label; their router rows stay. */
  readonly centroids: readonly number[];
}

/**
 * Distance of two experts, 0 … 1: 1 − ½·[(cos of the mean outputs + 1) / 2 + 1 − d / d_max], d the distance of the
 * normalized columns of the router logits (REAM, "gated similarity").
 *
 * @returns f64 [experts, experts]
 */
export function reamDistances({ saliency, outputGram, logitGram }: ReamStatistics): Float64Array {
  const experts = saliency.length;
  const each = (value: (a: number, b: number) => number): Float64Array =>
    Float64Array.from({ length: experts * experts }, (_, at) => value(Math.floor(at / experts), at % experts));
  const output = each((a, b) => (cosine(outputGram, experts, a, b) + 1) / 2);
  if (!logitGram) return output.map((likeness) => 1 - likeness);
  const apart = each((a, b) => (a === b ? 0 : Math.sqrt(Math.max(0, 2 - 2 * cosine(logitGram, experts, a, b)))));
  const farthest = apart.reduce((most, distance) => Math.max(most, distance), 0);
  return output.map((likeness, at) => 1 - (likeness + 1 - (farthest > 0 ? (apart[at] as number) / farthest : 0)) / 2);
}

/**
 * REAM's pseudo-pruning groups: the most salient experts are centroids; from the most salient on, each takes the
 * nearest experts that are still free, until its group is full. Equal saliency and equal distance go to the lower
 * index.
 *
 * @param size experts of a group, its centroid included; 0: no limit, every expert goes to its nearest centroid.
 *   Published: 16
 * @throws MoeError RECIPE_INVALID where that many groups of that size do not hold all experts
 */
export function reamGroups(statistics: ReamStatistics, groups: number, size = 16): ReamGroups {
  const { saliency } = statistics;
  const experts = saliency.length;
  if (!(Number.isInteger(groups) && groups >= 1 && groups <= experts) || (size !== 0 && groups * size < experts)) {
    throw new MoeError('RECIPE_INVALID', {
      argument: 'groups',
      expected: `1 … ${experts} groups that hold ${experts} experts`,
      received: `${groups} groups of ${size}`,
    });
  }
  const distances = reamDistances(statistics);
  const distance = (a: number, b: number): number => distances[a * experts + b] as number;
  const order = [...saliency.keys()].sort((a, b) => (saliency[b] as number) - (saliency[a] as number) || a - b);
  const centroids = order.slice(0, groups);
  const labels = new Int32Array(experts).fill(-1);
  centroids.forEach((centroid, label) => {
    labels[centroid] = label;
  });
  const free = (): number[] => [...labels.keys()].filter((expert) => labels[expert] === -1);
  if (size === 0) {
    for (const expert of free()) {
      labels[expert] = centroids.reduce(
        (best, centroid, label) =>
          distance(expert, centroid) < distance(expert, centroids[best] as number) ? label : best,
        0,
      );
    }
  } else {
    centroids.forEach((centroid, label) => {
      const nearest = free().sort((a, b) => distance(centroid, a) - distance(centroid, b) || a - b);
      for (const expert of nearest.slice(0, size - 1)) labels[expert] = label;
    });
  }
  return { labels, centroids };
}

/**
 * The weights of a merge by saliency: experts that no token reached count as much as the least salient one, 0.5 at most
 * (REAM's pipeline), so that no group sums to zero.
 */
export function reamSaliency(saliency: Float64Array): Float64Array {
  const least = saliency.reduce((low, value) => (value > 0 ? Math.min(low, value) : low), 0.5);
  return saliency.map((value) => (value > 0 ? value : least));
}
