import { denseMatrix, type Expert, type ExpertLayer, type Matrix } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { type RefitStatistics, ridgeSolve } from './ridge.ts';

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
  const { slots } = layer;
  const moments = await context.hiddenMoments(layer, { together });
  const refitted = [...slots];
  for (const [slot, expert] of slots.entries()) {
    if (!untouched[slot]) refitted[slot] = { ...expert, down: await refittedDown(expert, await moments.of(slot)) };
  }
  return { ...layer, slots: refitted };
}

/** The dense down projection of one slot, refitted. */
export async function refittedDown({ hidden, width, down }: Expert, statistics: RefitStatistics): Promise<Matrix> {
  const { dense } = down;
  if (width === 0 || !dense) return down;
  return denseMatrix(hidden, width, await ridgeSolve(statistics, dense, width, hidden));
}
