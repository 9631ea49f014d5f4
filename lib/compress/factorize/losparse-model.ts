/** Which rows LoSparse keeps by the loss of the whole model, as published. */
import { MoeError } from '../../errors.ts';
import type { ExpertLayer } from '../experts.ts';
import { modelGradients, requireDifferentiable } from '../gradients/model.ts';
import type { PlanContext } from '../steps/step.ts';
import { indices, type Part, partsOf, prunedLayer, prunerOf, scheduleOf } from './losparse-layer.ts';

/**
 * Prunes the rests of all layers together, by gradients of the model's mean cross-entropy, a calibration window for each step, under one
 * threshold over all of them (arXiv 2310.01334, section 3.3, and the code published with it). Weights do not move: only rows go.
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
  const { source, stream, signal } = plan;
  requireDifferentiable(source);
  const windows = plan.windows.filter(({ length }) => length > 1);
  if (windows.length === 0) {
    const expected = 'a window of two tokens or more, for a loss';
    throw new MoeError('RECIPE_INVALID', { argument: 'calibrate', expected, received: 'windows of one' });
  }
  const layers = new Map<number, { readonly layer: ExpertLayer; readonly parts: readonly Part[] }>();
  await plan.eachLayerSoFar('factorize', async (index, layer) => {
    layers.set(index, { layer, parts: await partsOf(layer, rankOf(index), signal) });
  });
  const all = [...layers.values()].flatMap(({ parts }) => parts);
  const places = new Map(all.map((part, at) => [part, at]));
  const place = (part: Part): number => places.get(part) as number;
  const pruner = prunerOf(all, scheduleOf(steps, rows));
  for (let step = 0; step < steps; step++) {
    plan.report('weigh the rows', step, steps);
    await modelGradients(stream.device, source, windows[step % windows.length] as Int32Array, {
      signal,
      experts(index) {
        const { layer, parts } = layers.get(index) as { layer: ExpertLayer; parts: readonly Part[] };
        return prunedLayer(layer, parts, (part) => pruner.kept(place(part)));
      },
      visit(index, slots) {
        for (const part of layers.get(index)?.parts ?? []) {
          pruner.observe(place(part), part.rest, slots[part.slot]?.[part.name] as Float32Array);
        }
      },
    });
    pruner.prune();
  }
  return [...layers.values()].map(({ parts }) => parts.map((part) => indices(pruner.kept(place(part)))));
}
