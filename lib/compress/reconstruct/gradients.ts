/** Gradients of a layer's own output error by the dense matrices of its slots. */
import { MoeError } from '../../errors.ts';
import type { ExpertMatrices } from '../expert.ts';
import type { ExpertLayer } from '../experts.ts';
import { DenseBanks, type ExpertGradients } from '../gradients/experts.ts';
import type { LayerContext } from '../layer-context.ts';

/** Of ½·Σ_t ‖y_t − aim_t‖². */
export interface OutputGradients {
  readonly slots: readonly ExpertGradients[];
  /** Σ_t ‖y_t − aim_t‖². */
  readonly error: number;
}

/**
 * Runs the layer forward and back over its calibration tokens. Only SwiGLU experts can be.
 *
 * @param experts the dense sums of each slot
 * @param batch only this one of the calibration batches, counted round
 * @throws MoeError RECIPE_INVALID for experts of another kind
 */
export async function outputGradients(
  layer: ExpertLayer,
  experts: readonly ExpertMatrices[],
  context: LayerContext,
  batch?: number,
): Promise<OutputGradients> {
  const { hidden, kind } = layer;
  if (kind !== 'swiglu') {
    throw new MoeError('RECIPE_INVALID', {
      argument: 'steps',
      expected: 'swiglu experts for gradients',
      received: kind,
    });
  }
  using banks = await DenseBanks.from(context.stream.device, experts);
  const sums = await context.observe(
    layer,
    { ...banks.shapes, error: [hidden] },
    ({ graph, values: { input }, routing, aim }, states) => {
      const values = banks.forward(graph, input, routing);
      const error = graph.map('add', graph.combine(values.y, routing), aim, { beta: -1 });
      banks.accumulate(graph, { x: input, slope: error, routing, values }, states);
      graph.accumulate('sum', graph.multiply(error, error), states.error);
    },
    { batch },
  );
  return { slots: banks.gradients(sums), error: sums.error.reduce((sum, value) => sum + value, 0) };
}
