/** Which rows LoSparse keeps by the loss of the whole model, as published. */
import { MoeError } from '../../errors.ts';
import type { ExpertLayer } from '../experts.ts';
import { modelGradients, requireDifferentiable } from '../gradients/model.ts';
import { SpilledLayer } from '../spilled-layer.ts';
import type { PlanContext } from '../steps/step.ts';
import type { PruningSchedule } from './losparse.ts';
import {
  indices,
  type Part,
  partsOf,
  prunedLayer,
  prunerOf,
  type Split,
  scheduleOf,
  splitsOf,
} from './losparse-layer.ts';

/** A layer as the steps before leave it, in a file, and where its parts begin among those of all layers. */
interface OwnLayer {
  readonly layer: ExpertLayer;
  readonly parts: readonly Part[];
  readonly first: number;
}

/**
 * Prunes the rests of all layers together, by gradients of the model's mean cross-entropy, a calibration window for each step, under one
 * threshold over all of them (arXiv 2310.01334, section 3.3, and the code published with it). Weights do not move: only rows go. The layers lie in
 * files of the folder in the making meanwhile; their factors stay in memory.
 *
 * @param o.rankOf a layer's matrices
 * @param o.rows share of the rests' entries that stays, in whole rows
 * @param o.steps of the pruning; 16 or more
 * @returns [MoE layer][part]: the rows that stay
 * @throws MoeError UNSUPPORTED as `requireDifferentiable`; RECIPE_INVALID where no window has two tokens
 */
export async function losparseRows(
  plan: PlanContext,
  { rankOf, rows, steps }: { rankOf(layer: number): number; readonly rows: number; readonly steps: number },
): Promise<number[][][]> {
  const { signal } = plan;
  requireDifferentiable(plan.source);
  const windows = plan.windows.filter(({ length }) => length > 1);
  if (windows.length === 0) {
    const expected = 'a window of two tokens or more, for a loss';
    throw new MoeError('RECIPE_INVALID', { argument: 'calibrate', expected, received: 'windows of one' });
  }
  const spilled: SpilledLayer[] = [];
  try {
    const layers = new Map<number, OwnLayer>();
    let first = 0;
    await plan.eachLayerSoFar('factorize', async (index, layer) => {
      const own = await SpilledLayer.write(plan.folder.file(`layer-${index}.partial`), layer);
      spilled.push(own);
      const parts = await partsOf(own.layer, rankOf(index), signal);
      layers.set(index, { layer: own.layer, parts, first });
      first += parts.length;
    });
    return await rowsOf(plan, windows, layers, scheduleOf(steps, rows));
  } finally {
    for (const own of spilled) await own[Symbol.asyncDispose]();
  }
}

async function rowsOf(
  { source, stream, signal, report }: PlanContext,
  windows: readonly Int32Array[],
  layers: ReadonlyMap<number, OwnLayer>,
  schedule: PruningSchedule,
): Promise<number[][][]> {
  const all = [...layers.values()].flatMap(({ parts }) => parts);
  const pruner = prunerOf(all, schedule);
  let [last, splits]: [number, Split[]] = [-1, []];
  for (let step = 0; step < schedule.steps; step++) {
    report('weigh the rows', step, schedule.steps);
    await modelGradients(stream.device, source, windows[step % windows.length] as Int32Array, {
      signal,
      async experts(index) {
        const { layer, parts, first } = layers.get(index) as OwnLayer;
        if (last !== index) [last, splits] = [index, await splitsOf(layer, parts)];
        return prunedLayer(layer, parts, splits, (at) => pruner.kept(first + at));
      },
      visit(index, slots) {
        const { parts, first } = layers.get(index) as OwnLayer;
        for (const [at, { slot, name }] of parts.entries()) {
          pruner.observe(first + at, (splits[at] as Split).rest, slots[slot]?.[name] as Float32Array);
        }
      },
    });
    pruner.prune();
  }
  return [...layers.values()].map(({ parts, first }) => parts.map((_, at) => indices(pruner.kept(first + at))));
}
