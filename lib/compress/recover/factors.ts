import type { Expert, ExpertLayer, Matrix } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { product } from '../numerics.ts';
import { type RefitStatistics, ridgeSolve } from './ridge.ts';

/**
 * Refits low-rank down projections (B, and the rows kept whole; A stays) to what all slots together are short of the original block's
 * output: B = argmin Σ_t ‖B·z_t − target_t‖² + λ‖B − B⁰‖² with z = A·h, whose moments follow from those of h.
 */
export async function refitFactors(layer: ExpertLayer, context: LayerContext): Promise<ExpertLayer> {
  const moments = await context.hiddenMoments(layer, { together: true });
  const slots: Expert[] = [];
  for (const [slot, expert] of layer.slots.entries()) {
    slots.push({ ...expert, down: await refitMatrix(expert.down, await moments.of(slot)) });
  }
  return { ...layer, slots };
}

async function refitMatrix(matrix: Matrix, { gram, cross, rows }: RefitStatistics): Promise<Matrix> {
  const { rows: out, columns, factors, kept } = matrix;
  if (!factors || rows === 0) return matrix;
  const { rank, a, b } = factors;
  const half = await product(a, gram, { rows: rank, columns, depth: columns });
  const inner = await product(half, a, { rows: rank, columns: rank, depth: columns, transposed: true });
  const seen = await product(cross, a, { rows: out, columns: rank, depth: columns, transposed: true });
  const fitted = await ridgeSolve({ gram: inner, cross: seen, rows }, b, rank, out);
  if (!kept) return { ...matrix, factors: { ...factors, b: fitted } };
  for (const row of kept.index) fitted.fill(0, row * rank, (row + 1) * rank);
  const own = new Float64Array(kept.index.length * columns);
  kept.index.forEach((row, at) => {
    own.set(cross.subarray(row * columns, (row + 1) * columns), at * columns);
  });
  const values = await ridgeSolve({ gram, cross: own, rows }, kept.values, columns, kept.index.length);
  return { ...matrix, factors: { ...factors, b: fitted }, kept: { ...kept, values } };
}
