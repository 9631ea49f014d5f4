import { type ExpertMatrices, transpose } from '../expert.ts';
import { addProduct, assign } from '../numerics.ts';

export interface AlignmentOptions {
  /** Whether the columns of the down projections count too; MC-SMoE's `include_wo`. Default true. */
  readonly down?: boolean;
}

/**
 * The order of `expert`'s hidden neurons that fits `reference` best: the assignment that maximizes the summed dot
 * products of gate rows, up rows and down columns (MC-SMoE, section 3.1, "permutation alignment"). The least sum of
 * squared distances, as REAP has it, is the same optimum: the norms do not depend on the order. Biases have no part in
 * it.
 *
 * Which expert is the reference is the caller's choice: the layer's first (MC-SMoE), the group's lowest, its dominant
 * (REAP).
 *
 * @returns i32 [width]; neuron i of the aligned expert is neuron permutation[i] of `expert`.
 */
export async function alignmentTo(
  reference: ExpertMatrices,
  expert: ExpertMatrices,
  options: AlignmentOptions = {},
): Promise<Int32Array> {
  const { width, hidden } = reference;
  const likeness = new Float64Array(width * width);
  const others = neuronRows(expert, options);
  for (const [at, rows] of neuronRows(reference, options).entries()) {
    await addProduct(rows, others[at] as Float32Array, width, hidden, likeness);
  }
  return assign(likeness, width);
}

/** All weights of each hidden neuron: gate (where there is one), up and downᵀ, f32 [width, hidden] each. */
export function neuronRows(
  { gate, up, down, width, hidden }: ExpertMatrices,
  options: AlignmentOptions = {},
): Float32Array[] {
  return [...(gate ? [gate] : []), up, ...(options.down === false ? [] : [transpose(down, hidden, width)])];
}

/** The expert with its hidden neurons reordered; its function is unchanged. */
export function permuteNeurons(expert: ExpertMatrices, permutation: Int32Array): ExpertMatrices {
  const { width, hidden, gate, up, down } = expert;
  const columns = new Float32Array(down.length);
  for (let row = 0; row < hidden; row++) {
    for (let to = 0; to < width; to++) {
      columns[row * width + to] = down[row * width + (permutation[to] as number)] as number;
    }
  }
  return {
    width,
    hidden,
    gate: gate && permuteRows(gate, permutation),
    up: permuteRows(up, permutation),
    down: columns,
  };
}

/** A matrix [width, …] with its rows reordered, or the bias [width] of gate or up; down's bias stays as it is. */
export function permuteRows(matrix: Float32Array, permutation: Int32Array): Float32Array {
  const columns = matrix.length / permutation.length;
  const result = new Float32Array(matrix.length);
  permutation.forEach((from, to) => {
    result.set(matrix.subarray(from * columns, (from + 1) * columns), to * columns);
  });
  return result;
}
