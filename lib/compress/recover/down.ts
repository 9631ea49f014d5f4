import { denseMatrix, type ExpertLayer } from '../experts.ts';
import { type LayerContext, slotMoments } from '../layer-context.ts';
import { ridgeSolve } from './ridge.ts';

export interface RefitOptions {
  /** [slots]: slots that need none. */
  readonly untouched?: readonly boolean[] | undefined;
  /** All slots towards the whole block's output, each from where it is; else each towards its own members' outputs. */
  readonly together?: boolean | undefined;
}

/**
 * Refits the dense down projections to the original experts' gated outputs on the inputs that the layers before give ("average merge with
 * refit"; the same normal equations as MergeMoE, section 4): D = argmin Σ_t ‖D·g_t·h_t − target_t‖² + λ‖D − D⁰‖².
 */
export async function refitDown(
  layer: ExpertLayer,
  context: LayerContext,
  { untouched = [], together = false }: RefitOptions = {},
): Promise<ExpertLayer> {
  const { hidden, slots } = layer;
  const moments = await context.hiddenMoments(layer, { together });
  const refitted = [...slots];
  for (const [slot, expert] of slots.entries()) {
    const { width, down } = expert;
    if (untouched[slot] || width === 0 || !down.dense) continue;
    const dense = await ridgeSolve(slotMoments(moments, slot, hidden, width), down.dense, width, hidden);
    refitted[slot] = { ...expert, down: denseMatrix(hidden, width, dense) };
  }
  return { ...layer, slots: refitted };
}
