import { MoeError } from '../../errors.ts';
import { addProduct, assign } from '../numerics.ts';

/**
 * Adds the inner products of the experts' vectors: gram += V·Vᵀ for V f32 [experts, length]. Long vectors (all weights
 * of an expert) come in pieces, one call each.
 */
export async function addGram(gram: Float64Array, vectors: Float32Array, experts: number): Promise<void> {
  await addProduct(vectors, vectors, experts, vectors.length / experts, gram);
}

/**
 * Cosine similarity of the vectors whose inner products are given, mapped to 0 … 1: (cos + 1) / 2, diagonal 1 (MC-SMoE,
 * section 3.2). A zero vector is 0.5 from all others. What the vectors are is the basis of the similarity:
 *
 * - `router-logits`, the published choice: columns of the raw logits, so the Gram is ZᵀZ;
 * - `weight`: all matrices of an expert, flattened (aligned ones, if neurons should be comparable);
 * - `router-weight`: router rows; `router-weight-feature`: router rows times the norms of the layer's input columns;
 * - `feature` and `|feature|`: means of the inputs, or of their absolute values, over the tokens of an expert.
 *
 * @param gram f64 [experts, experts]
 * @returns f64 [experts, experts]
 */
export function cosineSimilarity(gram: Float64Array, experts: number): Float64Array {
  const similarity = new Float64Array(experts * experts);
  for (let a = 0; a < experts; a++) {
    for (let b = 0; b < experts; b++) {
      similarity[a * experts + b] = a === b ? 1 : (cosine(gram, experts, a, b) + 1) / 2;
    }
  }
  return similarity;
}

/** Cosine of vectors a and b from their inner products; 0 where one is zero. */
export function cosine(gram: Float64Array, experts: number, a: number, b: number): number {
  const lengths = Math.sqrt((gram[a * experts + a] as number) * (gram[b * experts + b] as number));
  return lengths > 0 ? Math.min(1, Math.max(-1, (gram[a * experts + b] as number) / lengths)) : 0;
}

/** Rows [rows, columns] with column c times factors[c]. */
export function scaleColumns(rows: Float32Array, factors: Float64Array): Float32Array {
  const columns = factors.length;
  return rows.map((value, at) => value * (factors[at % columns] as number));
}

/**
 * How alike two experts are by the correlation of their neurons (`feature-correlation` of MC-SMoE's code).
 *
 * @param correlation f64 [width, width] of the lower expert's neurons with the higher one's; see `hiddenCorrelation`
 * @param match `assignment`: mean of (r + 1) / 2 over the best assignment; `maximum`: over each neuron of the higher
 *   one, its best match
 */
export async function correlationSimilarity(
  correlation: Float64Array,
  width: number,
  match: 'assignment' | 'maximum',
): Promise<number> {
  if (correlation.length !== width * width) {
    throw new MoeError('INVALID_ARGUMENT', {
      argument: 'correlation',
      expected: `${width} × ${width} values`,
      received: `${correlation.length} values`,
    });
  }
  let sum = 0;
  if (match === 'assignment') {
    const columns = await assign(correlation, width);
    columns.forEach((column, row) => {
      sum += correlation[row * width + column] as number;
    });
  } else {
    for (let column = 0; column < width; column++) {
      let best = Number.NEGATIVE_INFINITY;
      for (let row = 0; row < width; row++) best = Math.max(best, correlation[row * width + column] as number);
      sum += best;
    }
  }
  return (sum / width + 1) / 2;
}
