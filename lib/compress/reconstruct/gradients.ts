/** Gradients of a layer's own output error by the dense matrices of its slots. */
import { MoeError } from '../../errors.ts';
import { Weight } from '../../weight/weight.ts';
import { type ExpertMatrices, transpose } from '../expert.ts';
import type { ExpertLayer } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';

export type MatrixName = 'gate' | 'up' | 'down';

/** Of ½·Σ_t ‖y_t − aim_t‖², one matrix for each slot, shaped as the slot's own: gate and up [width, hidden], down [hidden, width]. */
export interface OutputGradients {
  readonly slots: readonly Record<MatrixName, Float32Array>[];
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
  const slots = experts.length;
  const width = Math.max(...experts.map((expert) => expert.width), 1);
  const tall = [slots, width, hidden];
  const bank = (inputs: number, out: number, values: (expert: ExpertMatrices) => Float32Array): Promise<Weight> =>
    Weight.from(
      context.stream.device,
      { in: inputs, out, slots, format: { format: 'f32' } },
      stacked(experts.map(values), out * inputs),
    );
  using gate = await bank(hidden, width, (expert) => expert.gate as Float32Array);
  using up = await bank(hidden, width, (expert) => expert.up);
  using back = await bank(hidden, width, ({ down, width: own }) => transpose(down, hidden, own));
  using down = await bank(width, hidden, ({ down: matrix, width: own }) => widened(matrix, hidden, own, width));
  const shapes = { gate: tall, up: tall, down: tall, error: [hidden] };
  const sums = await context.observe(
    layer,
    shapes,
    ({ graph, values: { input }, routing, aim }, states) => {
      const z = graph.linear(input, gate, { routing });
      const u = graph.linear(input, up, { routing });
      const a = graph.map('silu', z);
      const h = graph.multiply(a, u);
      const y = graph.combine(graph.linear(h, down, { routing, gather: false }), routing);
      const error = graph.map('add', y, aim, { beta: -1 });
      const rows = graph.take(error, routing.tokenOf);
      const x = graph.take(input, routing.tokenOf);
      // silu(z)' = σ + silu(z)·(1 − σ), σ the sigmoid of z.
      const sigmoid = graph.map('sigmoid', z);
      const slope = graph.add(
        sigmoid,
        graph.multiply(a, graph.map('scale', sigmoid, undefined, { alpha: -1, beta: 1 })),
      );
      const dh = graph.linear(rows, back, { routing, gather: false });
      const weighted = { routing, gatePower: 1 } as const;
      graph.accumulate('gram', graph.multiply(graph.multiply(dh, u), slope), states.gate, { b: x, ...weighted });
      graph.accumulate('gram', graph.multiply(dh, a), states.up, { b: x, ...weighted });
      graph.accumulate('gram', h, states.down, { b: rows, ...weighted });
      graph.accumulate('sum', graph.multiply(error, error), states.error);
    },
    { batch },
  );
  const of = (all: Float64Array, slot: number): Float32Array =>
    Float32Array.from(all.subarray(slot * width * hidden, (slot * width + (experts[slot]?.width as number)) * hidden));
  return {
    slots: experts.map(({ width: own }, slot) => ({
      gate: of(sums.gate, slot),
      up: of(sums.up, slot),
      down: transpose(of(sums.down, slot), own, hidden),
    })),
    error: sums.error.reduce((sum, value) => sum + value, 0),
  };
}

/** Matrices one after the other, each with zeros up to `size` numbers. */
function stacked(matrices: readonly Float32Array[], size: number): Float32Array {
  const all = new Float32Array(matrices.length * size);
  for (const [at, matrix] of matrices.entries()) all.set(matrix, at * size);
  return all;
}

/** [rows, columns] with columns of zeros behind, up to `width`. */
function widened(matrix: Float32Array, rows: number, columns: number, width: number): Float32Array {
  if (columns === width) return matrix;
  const wide = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) wide.set(matrix.subarray(row * columns, (row + 1) * columns), row * width);
  return wide;
}
