import { euclideanDistances, hcSmoeGroups } from '../group/hc-smoe.ts';
import { agglomerateJointly } from '../group/linkage.ts';
import { groupExperts, groupsPerLayer, usageFrequency } from '../group/mc-smoe.ts';
import { reamGroups, reamSaliency } from '../group/ream.ts';
import { cosineSimilarity } from '../group/similarity.ts';
import { pruneScores } from '../prune/criteria.ts';
import { type GroupStep, groupBudget } from '../recipe/schema.ts';
import type { LayerStatistics } from '../statistics/calibrate.ts';
import { meanOutputs } from '../statistics/outputs.ts';
import { eachOriginalLayer, type PlanContext, type Step } from './step.ts';

/** The group of each expert of a layer, and what else merging wants to know. */
export type Grouping = {
  readonly groups: number;
  readonly labels: readonly number[];
  /** [experts]: what each expert weighs in its group's mean. */
  readonly weights: readonly number[];
  /** [experts]: how often each is used. */
  readonly frequencies: readonly number[];
  /** [experts, experts], of the router's logits. */
  readonly similarity: readonly number[];
  /** What becomes of the router's rows. */
  readonly router: 'experts' | 'cores' | 'mean';
};

/** Which experts share a slot. The layers stay as they are; `merge` follows the labels. */
export function groupingStep(step: GroupStep): Step {
  return {
    async plan(plan) {
      const { statistics } = plan;
      const frequencies = statistics.map(({ counts }) => usageFrequency(counts));
      const merged = statistics.map(({ layer }) => !step.keepLayers.includes(layer));
      const counts =
        step.method === 'mc-smoe' && groupBudget(step) === 'model'
          ? groupsPerLayer(frequencies, step.groups, merged)
          : statistics.map(({ experts }, at) => (merged[at] ? Math.round(step.groups) : experts));
      const outputs = step.method === 'mc-smoe' ? [] : await outputsOf(plan, step.method === 'ream');
      const joint =
        step.method === 'hc-smoe' && groupBudget(step) === 'model'
          ? jointLabels(outputs, step, merged, statistics)
          : [];
      return statistics.map((layer, at): Grouping => {
        const { experts, gram } = layer;
        const frequency = frequencies[at] as Float64Array;
        const similarity = cosineSimilarity(gram, experts);
        const groups = counts[at] as number;
        const found = { groups, frequencies: [...frequency], similarity: [...similarity], router: step.router };
        if (step.method === 'hc-smoe') {
          const labels = joint[at] ?? hcSmoeGroups(outputs[at] as Float64Array, experts, groups);
          return { ...found, groups: Math.max(...labels) + 1, labels: [...labels], weights: [...frequency] };
        }
        if (step.method === 'ream') {
          const saliency = reamSaliency(pruneScores('reap', layer));
          const outputGram = gramOf(outputs[at] as Float64Array, experts);
          const { labels } = reamGroups({ saliency, outputGram, logitGram: gram }, groups, step.size);
          return { ...found, labels: [...labels], weights: [...saliency] };
        }
        return { ...found, labels: [...groupExperts(frequency, similarity, groups)], weights: [...frequency] };
      });
    },
    async apply(layer, context, decision) {
      context.grouping = decision as Grouping;
      return layer;
    },
  };
}

/** HC-SMoE's labels under one budget of all layers that are merged; none for the others. */
function jointLabels(
  outputs: readonly Float64Array[],
  { groups }: GroupStep,
  merged: readonly boolean[],
  statistics: readonly LayerStatistics[],
): (Int32Array | undefined)[] {
  const layers = [...outputs.keys()].filter((at) => merged[at]);
  const distances = layers.map((at) => {
    const { experts } = statistics[at] as LayerStatistics;
    return euclideanDistances(outputs[at] as Float64Array, experts);
  });
  const labels = agglomerateJointly(distances, Math.round(groups * layers.length), 'average');
  return outputs.map((_, at) => labels[layers.indexOf(at)]);
}

async function outputsOf(plan: PlanContext, gated: boolean): Promise<Float64Array[]> {
  const outputs: Float64Array[] = [];
  await eachOriginalLayer(plan, 'compare the outputs', async (layer, { stream }) => {
    outputs.push(await meanOutputs(stream, { experts: layer.slots.length, hidden: layer.hidden }, gated));
  });
  return outputs;
}

function gramOf(rows: Float64Array, count: number): Float64Array {
  const columns = rows.length / count;
  return Float64Array.from({ length: count * count }, (_, at) => {
    const [a, b] = [Math.floor(at / count) * columns, (at % count) * columns];
    let sum = 0;
    for (let column = 0; column < columns; column++) sum += (rows[a + column] as number) * (rows[b + column] as number);
    return sum;
  });
}
