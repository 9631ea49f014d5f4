import { denseMatrix, type ExpertLayer } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { ridgeSolve } from './ridge.ts';

/**
 * Refits the dense down projections to the original experts' gated outputs on the inputs that the layers before give ("average merge with
 * refit"; the same normal equations as MergeMoE, section 4): D = argmin Σ_t ‖D·g_t·h_t − target_t‖² + λ‖D − D⁰‖².
 *
 * @param untouched [slots]: slots that need none
 */
export async function refitDown(
  layer: ExpertLayer,
  context: LayerContext,
  untouched: readonly boolean[] = [],
): Promise<ExpertLayer> {
  const { hidden, slots } = layer;
  const { width: widest, gram, cross, rows } = await context.hiddenMoments(layer);
  const refitted = [...slots];
  for (const [slot, expert] of slots.entries()) {
    const { width, down } = expert;
    if (untouched[slot] || rows[slot] === 0 || width === 0 || !down.dense) continue;
    const statistics = {
      gram: cut(gram.subarray(slot * widest * widest, (slot + 1) * widest * widest), width, width, widest),
      cross: cut(cross.subarray(slot * hidden * widest, (slot + 1) * hidden * widest), hidden, width, widest),
      rows: rows[slot] as number,
    };
    const dense = await ridgeSolve(statistics, down.dense, width, hidden);
    refitted[slot] = { ...expert, down: denseMatrix(hidden, width, dense) };
  }
  return { ...layer, slots: refitted };
}

/** The first `rows` and `columns` of a matrix of row length `stride`. */
export function cut(matrix: Float64Array, rows: number, columns: number, stride: number): Float64Array {
  if (columns === stride) return matrix.subarray(0, rows * columns);
  const part = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) part.set(matrix.subarray(row * stride, row * stride + columns), row * columns);
  return part;
}
