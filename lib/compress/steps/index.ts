import { MoeError } from '../../errors.ts';
import type { RecipeStep } from '../recipe/schema.ts';
import { groupingStep } from './group.ts';
import { mergingStep } from './merge.ts';
import { roundingStep } from './quantize.ts';
import type { Step } from './step.ts';

/** The step as the pipeline runs it. */
export function makeStep(step: RecipeStep): Step {
  switch (step.step) {
    case 'group':
      return groupingStep(step);
    case 'merge':
      return mergingStep(step);
    case 'quantize':
      return roundingStep();
    default:
      throw new MoeError('UNSUPPORTED', { argument: step.step, expected: 'a step that is there', received: step.step });
  }
}
