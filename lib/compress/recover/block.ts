import type { ExpertLayer } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { refitDown } from './down.ts';
import { refitHidden } from './hidden.ts';

/** More of them fit what calibration tells by chance (docs/compression.md). */
const rounds = 2;

/** All dense experts of a layer towards the original block's output: down, then in rounds gate and up and down on what they give. */
export async function refitBlock(layer: ExpertLayer, context: LayerContext): Promise<ExpertLayer> {
  let fitted = await refitDown(layer, context, { together: true });
  if (!context.refitsGateUp) return fitted;
  for (let round = 0; round < rounds; round++) {
    fitted = await refitDown(await refitHidden(fitted, context), context, { together: true });
  }
  return fitted;
}
