import { denseExpert, denseMatrices, type Expert } from '../experts.ts';
import type { NeuronCurve } from '../numerics.ts';
import type { SlimStep } from '../recipe/schema.ts';
import { refitBlock } from '../recover/block.ts';
import { widthsWithin } from '../size.ts';
import { refitExpert, removalCurve, slimExpert } from '../slim/expert.ts';
import { layerSensitivity } from '../slim/sensitivity.ts';
import { allocateWidths, defaultMultiple } from '../slim/widths.ts';
import { plannedLayers } from './quantize.ts';
import { eachOriginalLayer, type PlanContext, type Step } from './step.ts';

/** Removes neurons expert by expert, as many as the budget asks for, where they are missed least. */
export function slimmingStep({ keep, ratio, widths: scope, multiple: chosen }: SlimStep): Step {
  return {
    async plan(context) {
      const sensitivity = scope === 'model' ? await layerSensitivity(context) : [];
      const curves = await originalCurves(context);
      const layers = plannedLayers(context);
      const multiple = chosen ?? defaultMultiple(Math.min(...layers.map(({ spec }) => spec.width)));
      const allocate = (share: number): number[][] =>
        allocateWidths(curves, sensitivity, { keep: share, scope, multiple });
      return ratio === undefined ? allocate(keep as number) : widthsWithin(layers, ratio, allocate);
    },
    async apply(layer, context, decision) {
      const widths = decision as readonly number[];
      const moments = await context.hiddenMoments(layer, { together: context.recover });
      const slots: Expert[] = [];
      for (const slot of layer.slots.keys()) {
        context.signal?.throwIfAborted();
        const expert = denseMatrices(layer, slot);
        const statistics = await moments.of(slot);
        const best = context.recover ? await refitExpert(expert, statistics) : expert;
        const curve = await removalCurve(best, statistics.gram);
        slots.push(denseExpert(await slimExpert(best, statistics, curve, widths[slot] as number, context.recover)));
      }
      const slim = { ...layer, slots };
      return context.recover ? refitBlock(slim, context) : slim;
    },
  };
}

/** The removal curves of all original experts. */
async function originalCurves(plan: PlanContext): Promise<NeuronCurve[][]> {
  const curves: NeuronCurve[][] = [];
  await eachOriginalLayer(plan, 'weigh the neurons', async (layer, context) => {
    const moments = await context.hiddenMoments(layer);
    const own: NeuronCurve[] = [];
    for (const slot of layer.slots.keys()) {
      own.push(await removalCurve(denseMatrices(layer, slot), (await moments.of(slot)).gram));
    }
    curves.push(own);
  });
  return curves;
}
