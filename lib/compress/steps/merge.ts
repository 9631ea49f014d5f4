import { MoeError } from '../../errors.ts';
import type { ExpertMatrices } from '../expert.ts';
import { denseExpert, denseMatrices, type Expert, type ExpertLayer, endJob, readMatrix } from '../experts.ts';
import { meanRows, selectRows } from '../group/router.ts';
import type { LayerContext } from '../layer-context.ts';
import { mergeShares, uniformWeights } from '../merge/mean.ts';
import { alignMembers, type Group, leastSquares, meanOf, tiesOf } from '../merge/members.ts';
import { joinExperts, limitNeurons, type Member, mostCandidates, takeNeurons } from '../merge/neurons.ts';
import type { NeuronCurve } from '../numerics.ts';
import type { MergeStep } from '../recipe/schema.ts';
import { refitDown } from '../recover/down.ts';
import type { RefitStatistics } from '../recover/ridge.ts';
import { widthsWithin } from '../size.ts';
import { refitExpert, removalCurve, slimExpert } from '../slim/expert.ts';
import { layerSensitivity } from '../slim/sensitivity.ts';
import { allocateWidths, defaultMultiple } from '../slim/widths.ts';
import type { Grouping } from './group.ts';
import { plannedLayers } from './quantize.ts';
import { eachOriginalLayer, type PlanContext, type Step } from './step.ts';

/** One expert of each group; an expert alone in its group stays as it is. */
export function mergingStep(step: MergeStep): Step {
  return {
    async plan(context) {
      return step.method === 'neurons' ? planNeurons(context, step) : [];
    },
    async apply(layer, context, decision) {
      const grouping = context.requireGrouping();
      const { labels } = grouping;
      const members = groupsOf(grouping);
      const weights = step.method === 'uniform' ? uniformWeights(labels.length) : grouping.weights;
      const grouped: ExpertLayer = { ...layer, groupOf: Int32Array.from(labels) };
      const merged =
        step.method === 'neurons'
          ? await mergeNeurons(grouped, context, members, weights, decision as readonly number[])
          : await mergeMembers(grouped, context, members, weights, step);
      const routed = await withRouter(merged, context, grouping, members);
      const changed = members.some((group) => group.length > 1);
      return context.recover && changed ? refitDown(routed, context, { together: true }) : routed;
    },
  };
}

/** The router's rows as the grouping wants them: of all experts, of each group's heaviest, or a mean of each group's. */
async function withRouter(
  layer: ExpertLayer,
  context: LayerContext,
  { router, labels, weights, frequencies }: Grouping,
  groups: readonly (readonly number[])[],
): Promise<ExpertLayer> {
  if (router === 'experts') return layer;
  const rows = await context.router();
  const cores = groups.map((group) => heaviest(weights, group));
  const own =
    router === 'cores'
      ? selectRows(rows, labels.length, cores)
      : meanRows(rows, labels, Float64Array.from(frequencies));
  return { ...layer, router: own };
}

/** Experts of a group aligned and made one; with the refit, the down projection is then fitted to the members' outputs. */
async function mergeMembers(
  layer: ExpertLayer,
  context: LayerContext,
  indices: readonly (readonly number[])[],
  weights: ArrayLike<number>,
  { align, method }: MergeStep,
): Promise<ExpertLayer> {
  const read = async (group: readonly number[]): Promise<Group> => {
    const members: ExpertMatrices[] = [];
    for (const expert of group) members.push(await context.original(expert));
    return { members, shares: mergeShares(weights, group), dominant: group.indexOf(heaviest(weights, group)) };
  };
  const slots: Expert[] = [];
  for (const { first, groups: run } of runsOf(indices, layer.hidden * context.spec.width * 12, context.partBytes)) {
    const groups: Group[] = [];
    for (const group of run) groups.push(await read(group));
    const within = (label: number): number => (label >= first && label < first + run.length ? label - first : -1);
    const own = { ...layer, groupOf: layer.groupOf.map(within) };
    const aligned = await alignMembers(groups, own, context, align);
    const made = aligned.map((group) => denseExpert(method === 'ties' ? tiesOf(group) : meanOf(group)));
    const fitted =
      method === 'least-squares' ? await leastSquares({ ...own, slots: made }, context, aligned) : undefined;
    slots.push(...(fitted?.slots ?? made));
  }
  const merged = { ...layer, slots };
  if (method === 'least-squares') return merged;
  const untouched = indices.map(({ length }) => length === 1);
  return context.recover ? refitDown(merged, context, { untouched }) : merged;
}

/** Groups in runs whose experts are read, and looked at, together. */
function* runsOf(
  groups: readonly (readonly number[])[],
  expertBytes: number,
  most: number,
): Generator<{ first: number; groups: readonly (readonly number[])[] }> {
  let [first, bytes] = [0, 0];
  for (const [at, { length }] of groups.entries()) {
    if (at > first && bytes + length * expertBytes > most) {
      yield { first, groups: groups.slice(first, at) };
      [first, bytes] = [at, 0];
    }
    bytes += length * expertBytes;
  }
  yield { first, groups: groups.slice(first) };
}

/** The neurons of all members of a group as one expert, and what it costs that they go. */
interface Candidates {
  /** Its down projection is fitted, where the recipe recovers. */
  readonly expert: ExpertMatrices;
  readonly curve: NeuronCurve;
  readonly statistics: RefitStatistics;
}

/** Group by group: all of them together would take a layer of floats and more. */
async function* candidatesOf(
  layer: ExpertLayer,
  context: LayerContext,
  groups: readonly (readonly number[])[],
  weights: ArrayLike<number>,
): AsyncGenerator<Candidates> {
  const crowded = groups.some((group) => group.length * context.spec.width > mostCandidates);
  const energy = crowded ? await energies(context, layer) : undefined;
  const originals = context.originals({ format: 'f32' });
  const joined: Expert[] = [];
  for (const group of groups) {
    joined.push(joinedExpert(originals, group, mergeShares(weights, group), energy));
    await endJob();
  }
  let wide: ExpertLayer = { ...layer, slots: joined };
  if (context.recover) wide = await refitDown(wide, context);
  const moments = await context.hiddenMoments(wide, { together: context.recover });
  for (const slot of wide.slots.keys()) {
    context.signal?.throwIfAborted();
    const statistics = await moments.of(slot);
    const candidate = denseMatrices(wide, slot);
    const expert = context.recover ? await refitExpert(candidate, statistics) : candidate;
    yield { expert, curve: await removalCurve(expert, statistics.gram), statistics };
  }
}

/** All members of a group side by side, read when they are asked for; `energy`: of the neurons of all experts, where some have to go. */
function joinedExpert(
  originals: ExpertLayer,
  group: readonly number[],
  shares: ArrayLike<number>,
  energy: readonly Float64Array[] | undefined,
): Expert {
  const members = (): Member[] =>
    group.map((expert, at) => ({ matrices: denseMatrices(originals, expert), share: shares[at] as number }));
  const own = group.map((expert) => energy?.[expert] as Float64Array);
  const kept = energy && limitNeurons(members(), own, mostCandidates);
  const join = (): ExpertMatrices =>
    joinExperts(
      kept
        ? members().map(({ matrices, share }, at) => ({
            share,
            matrices: takeNeurons(matrices, kept[at] as Int32Array),
          }))
        : members(),
    );
  const { hidden } = originals;
  const width = group.reduce((sum, expert, at) => sum + (kept?.[at]?.length ?? widthOf(originals, expert)), 0);
  const rows = { rows: width, columns: hidden };
  return {
    hidden,
    width,
    ...(originals.slots[0]?.gate && { gate: readMatrix(rows, () => join().gate as Float32Array) }),
    up: readMatrix(rows, () => join().up),
    down: readMatrix({ rows: hidden, columns: width }, () => join().down),
  };
}

function widthOf({ slots }: ExpertLayer, slot: number): number {
  return (slots[slot] as Expert).width;
}

/** Of the neurons of a group those stay that it would miss most. */
async function mergeNeurons(
  layer: ExpertLayer,
  context: LayerContext,
  groups: readonly (readonly number[])[],
  weights: ArrayLike<number>,
  widths: readonly number[],
): Promise<ExpertLayer> {
  const slots: Expert[] = [];
  for await (const { expert, curve, statistics } of candidatesOf(layer, context, groups, weights)) {
    const width = Math.min(widths[slots.length] as number, expert.width);
    slots.push(denseExpert(await slimExpert(expert, statistics, curve, width, context.recover)));
  }
  return { ...layer, slots };
}

/** How many neurons each group of each layer keeps, from the original model. */
async function planNeurons(
  plan: PlanContext,
  { neurons, ratio, multiple: chosen, widths: scope }: MergeStep,
): Promise<number[][]> {
  const grouping = plan.grouping ?? [];
  if (plan.recipe.steps.some((step) => step.step === 'group' && step.sequential)) {
    const expected = 'groups that are known before the layers change, for neurons';
    throw new MoeError('RECIPE_INVALID', { argument: 'sequential', expected, received: 'true' });
  }
  const sensitivity = scope === 'model' ? await layerSensitivity(plan) : [];
  const curves: NeuronCurve[][] = [];
  let budget = 0;
  await eachOriginalLayer(plan, 'weigh the neurons', async (layer, context) => {
    const own = grouping[curves.length] as Grouping;
    const groups = groupsOf(own);
    const grouped = { ...layer, groupOf: Int32Array.from(own.labels) };
    const found: NeuronCurve[] = [];
    for await (const { curve } of candidatesOf(grouped, context, groups, own.weights)) found.push(curve);
    curves.push(found);
    const experts = layer.slots.length;
    budget += (neurons ?? groups.length / experts) * experts * context.spec.width;
  });
  const total = curves.flat().reduce((sum, { order }) => sum + order.length, 0);
  const layers = plannedLayers(plan);
  const multiple = chosen ?? defaultMultiple(Math.min(...layers.map(({ spec }) => spec.width)));
  const allocate = (keep: number): number[][] => allocateWidths(curves, sensitivity, { keep, scope, multiple });
  return ratio === undefined ? allocate(Math.min(1, budget / total)) : widthsWithin(layers, ratio, allocate);
}

function groupsOf({ groups, labels }: Grouping): number[][] {
  return Array.from({ length: groups }, (_, group) =>
    labels.flatMap((label, expert) => (label === group ? [expert] : [])),
  );
}

/** Σ g²·h² of the neurons of each original expert. */
async function energies(context: LayerContext, layer: ExpertLayer): Promise<Float64Array[]> {
  const original = { ...layer, groupOf: Int32Array.from(layer.slots.keys()) };
  const moments = await context.hiddenMoments(original);
  const found: Float64Array[] = [];
  for (const [slot, { width }] of layer.slots.entries()) {
    const { gram } = await moments.of(slot);
    found.push(Float64Array.from({ length: width }, (_, j) => gram[j * width + j] as number));
  }
  return found;
}

function heaviest(weights: ArrayLike<number>, members: readonly number[]): number {
  return members.reduce((best, expert) => ((weights[expert] as number) > (weights[best] as number) ? expert : best));
}
