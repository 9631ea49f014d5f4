import type { NativeWeightForm } from '../../addon.ts';
import { type StoredForm, storedNativeForm } from '../../checkpoint/stored-matrix.ts';
import { MoeError } from '../../errors.ts';
import { storedForm } from '../../moe/bank.ts';
import { type IntegerFormat, parseWeightFormat } from '../../weight/format.ts';
import { decodeCodes } from '../decode.ts';
import { describeLayer, layerBytes, specOf } from '../encode.ts';
import { type Codes, type Expert, type ExpertLayer, type Matrix, type PartForms, readMatrix } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { gptq } from '../numerics.ts';
import { dualCodes } from '../quantize/dual.ts';
import { type Choice, chooseWithin } from '../quantize/mixed.ts';
import { decoded } from '../quantize/rounding.ts';
import type { QuantizeStep, Recipe } from '../recipe/schema.ts';
import { refittedDown } from '../recover/down.ts';
import type { PlannedLayer } from '../size.ts';
import { layerSensitivity } from '../slim/sensitivity.ts';
import { moeLayers, sourceForm } from '../source.ts';
import { scalingStep } from './awq.ts';
import { eachOriginalLayer, type Json, type PlanContext, type Step } from './step.ts';

/** The formats of one layer, as a recipe writes them. */
type LayerFormats = { readonly weights: string; readonly down: string };

/**
 * The formats that the recipe gives to a layer: known from the start, so that refits see rounded weights.
 *
 * @param decisions what the steps decided on the layer
 */
export function finalForms(
  recipe: Recipe,
  layer: number,
  forms: ExpertLayer['forms'],
  decisions: readonly (Json | undefined)[],
): ExpertLayer['forms'] {
  return recipe.steps.reduce((current, step, at) => {
    if (step.step !== 'quantize') return current;
    const { weights, down = weights } = (decisions[at] as LayerFormats | undefined) ?? step.layers?.[layer] ?? step;
    return formsOf({ weights, down }, current);
  }, forms);
}

/** The MoE layers in the forms that the recipe gives them. */
export function plannedLayers({ source, recipe }: Pick<PlanContext, 'source' | 'recipe'>): PlannedLayer[] {
  return moeLayers(source).map(({ index, spec, names }) => {
    const form = sourceForm(source, names);
    const plain = { dense: form, factors: form, kept: form, sparse: form };
    return { spec, names, forms: finalForms(recipe, index, { up: plain, down: plain }, []) };
  });
}

/** Factors stay floats. */
function formsOf({ weights, down }: LayerFormats, forms: ExpertLayer['forms']): ExpertLayer['forms'] {
  return { up: partForms(weights, forms.up), down: partForms(down, forms.down) };
}

function partForms(text: string, { factors }: PartForms): PartForms {
  const dense = storedForm(parseWeightFormat(text));
  if (!('groupSize' in dense)) return { dense, factors: dense, kept: dense, sparse: dense };
  const { dual: _, ...plain } = dense;
  return { dense, factors, kept: plain, sparse: { ...plain, offset: false } };
}

/** Chooses formats where there is a budget, and codes. `round`: the nearest, when the layer is stored. Throws RECIPE_INVALID. */
export function quantizingStep(step: QuantizeStep): Step {
  const { budget, down, layers } = step;
  const solver = stepOf(step);
  if (budget === undefined) return solver;
  if (down !== undefined || layers) {
    const expected = 'weights and alternatives only, where a budget chooses';
    throw new MoeError('RECIPE_INVALID', { argument: down ? 'down' : 'layers', expected, received: 'one' });
  }
  return { ...solver, plan: (plan) => chooseFormats(plan, step, budget) };
}

function stepOf(step: QuantizeStep): Step {
  switch (step.method) {
    case 'round':
      return { apply: async (layer) => layer };
    case 'gptq':
      return solvingStep(gptqSolver(step));
    case 'awq':
      return scalingStep(step);
    case 'dual':
      requireDual(step);
      return solvingStep(solveDual);
  }
}

/** Codes of a matrix by the second moment of its inputs. */
type Solver = (matrix: Matrix, form: StoredForm, moment: Float64Array) => Promise<Matrix>;

/** Columns one by one, each error carried on to the columns after it (GPTQ). */
function gptqSolver({ actOrder, damping }: QuantizeStep): Solver {
  return async (matrix, form, moment) => {
    if (!matrix.dense || !('groupSize' in form) || form.dual) return matrix;
    const native: NativeWeightForm = storedNativeForm(form);
    const { rows, columns } = matrix;
    const { dequantized: _floats, ...found } = await gptq(matrix.dense, moment, rows, columns, {
      form: native,
      damping,
      bySize: actOrder,
    });
    const { offset } = found;
    const codes: Codes = { form, values: found.values, scale: found.scale, ...(offset && { offset }) };
    // A layer of floats is four times one of 16 bits beside int4: they are made again where they are asked for.
    const { dense: _dense, ...beside } = matrix;
    const made = { ...beside, codes: { ...matrix.codes, dense: codes } };
    return readMatrix(made, () => decodeCodes(codes, rows, columns));
  };
}

/** Dual-grained scales in two phases (DGQ). */
async function solveDual(matrix: Matrix, form: StoredForm, moment: Float64Array): Promise<Matrix> {
  if (!matrix.dense || !('groupSize' in form) || !form.dual) return matrix;
  const { rows, columns } = matrix;
  const codes = await dualCodes(matrix.dense, moment, rows, columns, form);
  return { ...matrix, dense: await decoded(codes, rows, columns), codes: { ...matrix.codes, dense: codes } };
}

function requireDual({ weights, down = weights, layers = {}, alternatives }: QuantizeStep): void {
  const layered = Object.values(layers).flatMap((layer) => [layer.weights, layer.down ?? layer.weights]);
  const formats = [weights, down, ...layered, ...alternatives];
  if (formats.some((text) => (parseWeightFormat(text) as IntegerFormat).dual)) return;
  throw new MoeError('RECIPE_INVALID', {
    argument: 'weights',
    expected: "a dual-grained format such as 'int4:64:dual'",
    received: formats.join(', '),
  });
}

/** Gate and up first, down on what they then give. */
function solvingStep(solve: Solver): Step {
  return {
    async apply(layer, context) {
      const above = await eachSlot(layer, context, async (expert, moment) => ({
        ...expert,
        ...(expert.gate && { gate: await solve(expert.gate, layer.forms.up.dense, moment) }),
        up: await solve(expert.up, layer.forms.up.dense, moment),
      }));
      const moments = await context.hiddenMoments(above, { together: context.recover });
      const slots: Expert[] = [];
      for (const [slot, expert] of above.slots.entries()) {
        const statistics = await moments.of(slot);
        const fitted = context.recover ? await refittedDown(expert, statistics) : expert.down;
        const seen = statistics.rows > 0;
        slots.push({ ...expert, down: seen ? await solve(fitted, layer.forms.down.dense, statistics.gram) : fitted });
      }
      return { ...above, slots };
    },
  };
}

/**
 * A format for gate and up and one for down in each layer, so that together they keep to the budget and the model loses least: the error of
 * the block's output under each format, measured on the original model, counts as much as the loss rises with it.
 */
async function chooseFormats(plan: PlanContext, step: QuantizeStep, budget: number): Promise<LayerFormats[]> {
  const formats = [step.weights, ...step.alternatives];
  const sensitivity = await layerSensitivity(plan);
  const items: Choice[][] = [];
  let whole = 0;
  await eachOriginalLayer(plan, 'measure the formats', async (layer, context) => {
    const at = items.length / 2;
    const stored = (changed: ExpertLayer): number =>
      layerBytes(specOf(context.spec, describeLayer(changed)), context.names) * share;
    const share = (plan.grouping?.[at]?.groups ?? layer.slots.length) / layer.slots.length;
    const plain = stored(layer);
    // Half of what f32 takes.
    whole += plain / 2;
    for (const bank of ['up', 'down'] as const) {
      const others = plain * (bank === 'up' ? 1 - upShare(layer) : upShare(layer));
      const choices: Choice[] = [];
      for (const text of formats) {
        const changed = { ...layer, forms: { ...layer.forms, [bank]: partForms(text, layer.forms[bank]) } };
        const { error } = await context.blockError(changed);
        const loss = (error / plan.stream.tokens) * (sensitivity[at] as number);
        choices.push({ bytes: stored(changed) - others, error: loss });
      }
      items.push(choices);
    }
  });
  const chosen = chooseWithin(items, budget * whole).map((choice) => formats[choice] as string);
  return Array.from({ length: items.length / 2 }, (_, at) => ({
    weights: chosen[2 * at] as string,
    down: chosen[2 * at + 1] as string,
  }));
}

/** Of a layer's weights, those of gate and up. */
function upShare({ slots }: ExpertLayer): number {
  return slots[0]?.gate ? 2 / 3 : 1 / 2;
}

/** A change of every slot that some token reached, by the second moment of its inputs. */
async function eachSlot(
  layer: ExpertLayer,
  context: LayerContext,
  change: (expert: Expert, moment: Float64Array) => Promise<Expert>,
): Promise<ExpertLayer> {
  const moments = context.inputMoments(layer, 0);
  const slots: Expert[] = [];
  for (const [slot, expert] of layer.slots.entries()) {
    context.signal?.throwIfAborted();
    const { gram, rows } = await moments.of(slot);
    slots.push(rows > 0 ? await change(expert, gram) : expert);
  }
  return { ...layer, slots };
}
