import type { ExpertLayer } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { refitDown } from './down.ts';
import { type OpenLayer, refitHidden } from './hidden.ts';

/** More of them fit what calibration tells by chance (docs/compression.md). */
const rounds = 2;

/**
 * All dense experts of a layer towards the original block's output: down, then in rounds gate and up and down on what they give.
 *
 * @param layer its slots are replaced
 * @returns the same
 */
export async function refitBlock(layer: OpenLayer, context: LayerContext): Promise<ExpertLayer> {
  await refitDowns(layer, context);
  if (!context.refitsGateUp) return layer;
  for (let round = 0; round < rounds; round++) {
    await refitHidden(layer, context);
    await refitDowns(layer, context);
  }
  return layer;
}

async function refitDowns(layer: OpenLayer, context: LayerContext): Promise<void> {
  const { slots } = await refitDown(layer, context, { together: true });
  layer.slots.splice(0, slots.length, ...slots);
}
