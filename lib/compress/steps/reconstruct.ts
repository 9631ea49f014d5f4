import { MoeError } from '../../errors.ts';
import { denseExpert, denseMatrices, type ExpertLayer } from '../experts.ts';
import { matrixNames } from '../gradients/experts.ts';
import type { ReconstructStep } from '../recipe/schema.ts';
import { Adam } from '../reconstruct/adam.ts';
import { outputGradients } from '../reconstruct/gradients.ts';
import { refitDown } from '../recover/down.ts';
import type { Step } from './step.ts';

/**
 * Moves the matrices of all slots together towards what the block should give, by Adam on the layer's own output error, a batch of calibration
 * tokens a step, in steps that fall to 0. Where the recipe recovers, the down projections are refitted behind it.
 *
 * @throws MoeError RECIPE_INVALID for matrices that are not dense floats, and experts that are not SwiGLU
 */
export function reconstructingStep({ steps, rate }: ReconstructStep): Step {
  return {
    async apply(layer, context) {
      requireDense(layer);
      const experts = layer.slots.map((_, slot) => {
        const { hidden, width, gate, up, down } = denseMatrices(layer, slot);
        return { hidden, width, gate: gate?.slice(), up: up.slice(), down: down.slice() };
      });
      const parameters = experts.flatMap((expert) => matrixNames.map((name) => expert[name] as Float32Array));
      const adam = new Adam(parameters);
      for (let step = 0; step < steps; step++) {
        context.signal?.throwIfAborted();
        const { slots } = await outputGradients(layer, experts, context, step);
        const gradients = slots.flatMap((slot) => matrixNames.map((name) => slot[name]));
        adam.step(gradients, rate * (1 - step / steps));
      }
      const moved = { ...layer, slots: experts.map(denseExpert) };
      return context.recover ? refitDown(moved, context, { together: true }) : moved;
    },
  };
}

function requireDense({ slots, baseOf }: ExpertLayer): void {
  const plain = slots.every((expert) => {
    return matrixNames.every((name) => {
      const { dense, factors, kept, sparse, codes } = expert[name] ?? {};
      return dense && !factors && !kept && !sparse && !codes;
    });
  });
  if (plain && !baseOf) return;
  throw new MoeError('RECIPE_INVALID', {
    argument: 'step',
    expected: 'reconstruct before steps that factorize, sparsify or quantize',
    received: 'matrices that are not dense floats',
  });
}
