import { euclideanDistances, hcSmoeGroups } from '../group/hc-smoe.ts';
import { agglomerateJointly } from '../group/linkage.ts';
import { groupExperts, groupsPerLayer, usageFrequency } from '../group/mc-smoe.ts';
import { type ReamStatistics, reamGroups, reamSaliency } from '../group/ream.ts';
import { reamStatistics } from '../group/ream-statistics.ts';
import { cosineSimilarity } from '../group/similarity.ts';
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
      const outputs = step.method === 'hc-smoe' ? await outputsOf(plan) : [];
      const ream = step.method === 'ream' ? await reamLayers(plan) : [];
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
          return { ...found, ...reamLabels(ream[at] as ReamStatistics, groups, step) };
        }
        return { ...found, labels: [...groupExperts(frequency, similarity, groups)], weights: [...frequency] };
      });
    },
    async apply(layer, context, decision) {
      const planned = decision as Grouping;
      context.grouping = step.sequential
        ? { ...planned, ...reamLabels(await reamStatistics(context.stream, context.spec), planned.groups, step) }
        : planned;
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

function reamLabels(
  statistics: ReamStatistics,
  groups: number,
  { size }: GroupStep,
): Pick<Grouping, 'labels' | 'weights'> {
  const saliency = reamSaliency(statistics.saliency);
  const { labels } = reamGroups({ ...statistics, saliency }, groups, size);
  return { labels: [...labels], weights: [...saliency] };
}

async function reamLayers(plan: PlanContext): Promise<ReamStatistics[]> {
  const layers: ReamStatistics[] = [];
  await eachOriginalLayer(plan, 'compare the outputs', async (_, { stream, spec }) => {
    layers.push(await reamStatistics(stream, spec));
  });
  return layers;
}

async function outputsOf(plan: PlanContext): Promise<Float64Array[]> {
  const outputs: Float64Array[] = [];
  await eachOriginalLayer(plan, 'compare the outputs', async (layer, { stream }) => {
    outputs.push(await meanOutputs(stream, { experts: layer.slots.length, hidden: layer.hidden }, false));
  });
  return outputs;
}
