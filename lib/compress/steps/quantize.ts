import type { StoredForm } from '../../checkpoint/stored-matrix.ts';
import { storedForm } from '../../moe/bank.ts';
import { parseWeightFormat } from '../../weight/format.ts';
import type { ExpertLayer, PartForms } from '../experts.ts';
import type { QuantizeStep, Recipe } from '../recipe/schema.ts';
import type { Step } from './step.ts';

/** The formats that `round` steps of a recipe give to a layer: known from the start, so that refits see the rounded weights. */
export function roundedForms(recipe: Recipe, layer: number, forms: ExpertLayer['forms']): ExpertLayer['forms'] {
  return recipe.steps.reduce(
    (current, step) => (step.step === 'quantize' && step.method === 'round' ? formsOf(step, layer, current) : current),
    forms,
  );
}

/** The forms of a layer after a step. Factors stay floats. */
export function formsOf(step: QuantizeStep, layer: number, forms: ExpertLayer['forms']): ExpertLayer['forms'] {
  const { weights, down = weights } = step.layers?.[layer] ?? step;
  const parts = (text: string, { factors }: PartForms): PartForms => {
    const dense = storedForm(parseWeightFormat(text));
    const plain: StoredForm = 'groupSize' in dense ? { ...dense, dual: false } : dense;
    const sparse: StoredForm = 'groupSize' in plain ? { ...plain, offset: false } : plain;
    return { dense, factors: 'groupSize' in dense ? factors : dense, kept: plain, sparse };
  };
  return { up: parts(weights, forms.up), down: parts(down, forms.down) };
}

/** Rounds to the nearest. The values are rounded when they are stored; see {@link roundedForms}. */
export function roundingStep(): Step {
  return { apply: async (layer) => layer };
}
