import { MoeError } from '../../errors.ts';

/** How often each expert of a layer was chosen: counts over their sum; all zeros where nothing was counted. */
export function usageFrequency(counts: Float64Array): Float64Array {
  const total = counts.reduce((sum, count) => sum + count, 0);
  return counts.map((count) => (total === 0 ? 0 : count / total));
}

/**
 * Groups a layer from one global budget (MC-SMoE, section 3.2): a layer keeps the experts whose usage is above the
 * budget-th largest of all layers, and always its most used one. Ties at the threshold lose groups, so the sum may stay
 * below the budget. Unlike the published code, an average of all experts keeps all of them; `published` brings its way
 * back, which merges one.
 *
 * @param frequencies usage of each layer, [experts] each
 * @param average groups a merged layer on average, 1 … experts
 * @param merged whether a layer may be merged; the others keep all their experts
 * @throws MoeError RECIPE_INVALID where the average is out of range
 */
export function groupsPerLayer(
  frequencies: readonly Float64Array[],
  average: number,
  merged?: readonly boolean[],
  { published = false }: { readonly published?: boolean } = {},
): number[] {
  const experts = Math.min(...frequencies.map((usage) => usage.length));
  if (!(Number.isFinite(average) && average >= 1 && average <= experts)) {
    throw new MoeError('RECIPE_INVALID', {
      argument: 'groups',
      expected: `an average of 1 … ${experts} groups a layer`,
      received: String(average),
    });
  }
  let budget = 0;
  const kept = frequencies.map((usage, layer) => {
    if (merged?.[layer] === false) {
      budget += usage.length;
      return new Float64Array(usage.length).fill(1);
    }
    budget += average;
    const copy = Float64Array.from(usage);
    copy[largestIndex(copy)] = 1;
    return copy;
  });
  if (published && average === experts) budget--;
  const sorted = kept.flatMap((usage) => [...usage]).sort((a, b) => b - a);
  // Where every expert may stay there is no threshold: -1 lies below every usage.
  const threshold = sorted[Math.floor(budget)] ?? -1;
  return kept.map((usage) => usage.filter((value) => value > threshold || value === 1).length);
}

/**
 * The most used experts become cores, labelled by rank; every other expert, the most used first, joins the core it is
 * most similar to (MC-SMoE, section 3.2). Ties in usage and in similarity go to the lower expert index and the lower
 * label.
 *
 * @param similarity f64 [experts, experts]; see `cosineSimilarity`
 * @param capacity experts of a group at most, its core included; default: no limit
 * @returns i32 [experts], labels 0 … groups − 1
 * @throws MoeError RECIPE_INVALID where that many groups do not hold all experts
 */
export function groupExperts(
  frequency: Float64Array,
  similarity: Float64Array,
  groups: number,
  capacity = frequency.length,
): Int32Array {
  const experts = frequency.length;
  if (!(Number.isInteger(groups) && groups >= 1 && groups <= experts && groups * capacity >= experts)) {
    throw new MoeError('RECIPE_INVALID', {
      argument: 'groups',
      expected: `1 … ${experts} groups that hold ${experts} experts`,
      received: `${groups} groups of ${capacity}`,
    });
  }
  const byUsage = [...frequency.keys()].sort((a, b) => (frequency[b] as number) - (frequency[a] as number) || a - b);
  const cores = byUsage.slice(0, groups);
  const labels = new Int32Array(experts);
  const members = new Int32Array(groups).fill(1);
  cores.forEach((expert, rank) => {
    labels[expert] = rank;
  });
  for (const expert of byUsage.slice(groups)) {
    const label = largestIndex(
      Float64Array.from(cores, (core, rank) =>
        (members[rank] as number) < capacity
          ? (similarity[expert * experts + core] as number)
          : Number.NEGATIVE_INFINITY,
      ),
    );
    labels[expert] = label;
    members[label] = (members[label] as number) + 1;
  }
  return labels;
}

function largestIndex(values: Float64Array): number {
  let best = 0;
  values.forEach((value, index) => {
    if (value > (values[best] as number)) best = index;
  });
  return best;
}
