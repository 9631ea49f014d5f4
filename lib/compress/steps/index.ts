import type { RecipeStep } from '../recipe/schema.ts';
import { factorizingStep } from './factorize.ts';
import { groupingStep } from './group.ts';
import { mergingStep } from './merge.ts';
import { pruningStep } from './prune.ts';
import { quantizingStep } from './quantize.ts';
import { reconstructingStep } from './reconstruct.ts';
import { slimmingStep } from './slim.ts';
import { sparsifyingStep } from './sparsify.ts';
import type { Step } from './step.ts';

/** The step as the pipeline runs it. */
export function makeStep(step: RecipeStep): Step {
  switch (step.step) {
    case 'group':
      return groupingStep(step);
    case 'merge':
      return mergingStep(step);
    case 'factorize':
      return factorizingStep(step);
    case 'prune':
      return pruningStep(step);
    case 'slim':
      return slimmingStep(step);
    case 'quantize':
      return quantizingStep(step);
    case 'reconstruct':
      return reconstructingStep(step);
    case 'sparsify':
      return sparsifyingStep(step);
  }
}
