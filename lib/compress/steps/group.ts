import { groupExperts, groupsPerLayer, routerSimilarity, usageFrequency } from '../group.ts';
import type { GroupStep } from '../recipe/schema.ts';
import type { Json, Step } from './step.ts';

/** The group of each expert of a layer, and how often each is used. */
export type Grouping = {
  readonly groups: number;
  readonly labels: readonly number[];
  readonly frequencies: readonly number[];
  /** [experts, experts]. */
  readonly similarity: readonly number[];
};

/** Which experts share a slot. The layers stay as they are; `merge` follows the labels. */
export function groupingStep({ groups, budget, keepLayers }: GroupStep): Step {
  return {
    async plan({ statistics }) {
      const frequencies = statistics.map(({ counts }) => usageFrequency(counts));
      const merged = statistics.map(({ layer }) => !keepLayers.includes(layer));
      const counts =
        budget === 'layer'
          ? statistics.map(({ experts }, at) => (merged[at] ? Math.round(groups) : experts))
          : groupsPerLayer(frequencies, groups, merged);
      return statistics.map(({ experts, gram }, at): Json => {
        const [frequency, count] = [frequencies[at] as Float64Array, counts[at] as number];
        const similarity = routerSimilarity(gram, experts);
        const labels = groupExperts(frequency, similarity, count);
        return { groups: count, labels: [...labels], frequencies: [...frequency], similarity: [...similarity] };
      });
    },
    async apply(layer, context, decision) {
      context.grouping = decision as Grouping;
      return layer;
    },
  };
}
