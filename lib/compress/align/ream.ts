import type { ExpertMatrices } from '../expert.ts';
import { addProduct, assign } from '../numerics.ts';
import { neuronRows } from './weights.ts';

/** Sums over the same rows, gates left out: what the hidden neurons of a centroid (a) and of a member (b) give, f64. */
export interface HiddenProducts {
  /** Σ a², [width]. */
  readonly squares: Float64Array;
  /** Σ b², [width]. */
  readonly otherSquares: Float64Array;
  /** Σ a·bᵀ, [width, width]. */
  readonly cross: Float64Array;
}

export interface ReamTerms {
  /** Compares what the neurons give. */
  readonly activations?: HiddenProducts;
  /** Compares the neurons' own weights, [gate ‖ up ‖ downᵀ]. */
  readonly weights?: { readonly centroid: ExpertMatrices; readonly expert: ExpertMatrices };
}

/**
 * REAM's order of a member's hidden neurons (its `logits+weights`, `logits` and `weights` modes): the assignment to the
 * centroid's neurons with the least sum of distances between normalized activations and between normalized weights. The
 * distances are not squared, so the optimum is not that of dot products. The published code first reduces the weights
 * to 64 random directions; here they are whole.
 *
 * @returns i32 [width]; neuron i of the aligned expert is neuron permutation[i] of the member.
 */
export async function reamAlignment({ activations, weights }: ReamTerms, width: number): Promise<Int32Array> {
  const closeness = new Float64Array(width * width);
  if (activations) subtractDistances(closeness, activations, width);
  if (weights) subtractDistances(closeness, await weightProducts(weights.centroid, weights.expert), width);
  return assign(closeness, width);
}

/** The products of the rows of [gate ‖ up ‖ downᵀ]. */
async function weightProducts(centroid: ExpertMatrices, expert: ExpertMatrices): Promise<HiddenProducts> {
  const { width, hidden } = centroid;
  const cross = new Float64Array(width * width);
  const [own, other] = [neuronRows(centroid), neuronRows(expert)];
  for (const [at, matrix] of own.entries()) await addProduct(matrix, other[at] as Float32Array, width, hidden, cross);
  return { squares: squaredNorms(own, width, hidden), otherSquares: squaredNorms(other, width, hidden), cross };
}

function squaredNorms(matrices: readonly Float32Array[], width: number, hidden: number): Float64Array {
  return Float64Array.from({ length: width }, (_, row) =>
    matrices.reduce(
      (sum, matrix) => matrix.subarray(row * hidden, (row + 1) * hidden).reduce((part, w) => part + w * w, sum),
      0,
    ),
  );
}

/** Distance of two unit vectors: √(2 − 2·cos). A zero vector stays zero, as far from every unit vector as 1. */
function subtractDistances(closeness: Float64Array, { squares, otherSquares, cross }: HiddenProducts, width: number) {
  for (let i = 0; i < width; i++) {
    for (let j = 0; j < width; j++) {
      const [a, b] = [squares[i] as number, otherSquares[j] as number];
      const cosine = a > 0 && b > 0 ? (cross[i * width + j] as number) / Math.sqrt(a * b) : 0;
      const squared = Number(a > 0) + Number(b > 0) - 2 * cosine;
      closeness[i * width + j] = (closeness[i * width + j] as number) - Math.sqrt(Math.max(0, squared));
    }
  }
}
