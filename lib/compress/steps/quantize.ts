import type { NativeWeightForm } from '../../addon.ts';
import { type StoredForm, storedNativeForm } from '../../checkpoint/stored-matrix.ts';
import { storedForm } from '../../moe/bank.ts';
import { parseWeightFormat } from '../../weight/format.ts';
import type { Codes, Expert, ExpertLayer, Matrix, PartForms } from '../experts.ts';
import { type LayerContext, slotMoments } from '../layer-context.ts';
import { gptq } from '../numerics.ts';
import type { QuantizeStep, Recipe } from '../recipe/schema.ts';
import { refitDown } from '../recover/down.ts';
import type { Step } from './step.ts';

/** The formats that the recipe gives to a layer: known from the start, so that refits see rounded weights. */
export function finalForms(recipe: Recipe, layer: number, forms: ExpertLayer['forms']): ExpertLayer['forms'] {
  return recipe.steps.reduce(
    (current, step) => (step.step === 'quantize' ? formsOf(step, layer, current) : current),
    forms,
  );
}

/** The forms of a layer after a step. Factors stay floats. */
function formsOf(step: QuantizeStep, layer: number, forms: ExpertLayer['forms']): ExpertLayer['forms'] {
  const { weights, down = weights } = step.layers?.[layer] ?? step;
  const parts = (text: string, { factors }: PartForms): PartForms => {
    const dense = storedForm(parseWeightFormat(text));
    if (!('groupSize' in dense)) return { dense, factors: dense, kept: dense, sparse: dense };
    const { dual: _, ...plain } = dense;
    return { dense, factors, kept: plain, sparse: { ...plain, offset: false } };
  };
  return { up: parts(weights, forms.up), down: parts(down, forms.down) };
}

/** Chooses codes. `round`: the nearest, when the layer is stored. */
export function quantizingStep(step: QuantizeStep): Step {
  if (step.method === 'gptq') return gptqStep(step);
  return { apply: async (layer) => layer };
}

/** Columns one by one, each error carried on to the columns after it (GPTQ); gate and up first, down on what they then give. */
function gptqStep({ actOrder, damping }: QuantizeStep): Step {
  const solve = async (matrix: Matrix, form: StoredForm, moment: Float64Array): Promise<Matrix> => {
    if (!matrix.dense || !('groupSize' in form) || form.dual) return matrix;
    const native: NativeWeightForm = storedNativeForm(form);
    const { rows, columns } = matrix;
    const { dequantized, ...found } = await gptq(matrix.dense, moment, rows, columns, {
      form: native,
      damping,
      bySize: actOrder,
    });
    const { offset } = found;
    const codes: Codes = { form, values: found.values, scale: found.scale, ...(offset && { offset }) };
    return { ...matrix, dense: dequantized, codes: { ...matrix.codes, dense: codes } };
  };
  return {
    async apply(layer, context) {
      const above = await eachSlot(layer, context, async (expert, moment) => ({
        ...expert,
        ...(expert.gate && { gate: await solve(expert.gate, layer.forms.up.dense, moment) }),
        up: await solve(expert.up, layer.forms.up.dense, moment),
      }));
      const fitted = context.recover ? await refitDown(above, context, { together: true }) : above;
      const moments = await context.hiddenMoments(fitted);
      const slots: Expert[] = [];
      for (const [slot, expert] of fitted.slots.entries()) {
        const { gram, rows } = slotMoments(moments, slot, layer.hidden, expert.width);
        const down = rows > 0 ? await solve(expert.down, layer.forms.down.dense, gram) : expert.down;
        slots.push({ ...expert, down });
      }
      return { ...fitted, slots };
    },
  };
}

/** A change of every slot that some token reached, by the second moment of its inputs. */
async function eachSlot(
  layer: ExpertLayer,
  context: LayerContext,
  change: (expert: Expert, moment: Float64Array) => Promise<Expert>,
): Promise<ExpertLayer> {
  const { hidden } = layer;
  const { gram, rows } = await context.inputMoments(layer, 0);
  const slots: Expert[] = [];
  for (const [slot, expert] of layer.slots.entries()) {
    context.signal?.throwIfAborted();
    const moment = gram.subarray(slot * hidden * hidden, (slot + 1) * hidden * hidden);
    slots.push((rows[slot] as number) > 0 ? await change(expert, moment) : expert);
  }
  return { ...layer, slots };
}
