import { addon } from '../addon.ts';
import { type ExpertMatrices, transpose } from './expert.ts';

/**
 * The order of `expert`'s hidden neurons that fits `reference` best: the assignment that maximizes the summed dot products of
 * gate rows, up rows and down columns (MC-SMoE, section 3.1, "permutation alignment"; golden case align-swiglu).
 *
 * @returns i32 [width]; neuron i of the aligned expert is neuron permutation[i] of `expert`.
 */
export async function alignmentTo(reference: ExpertMatrices, expert: ExpertMatrices): Promise<Int32Array> {
  const { width, hidden } = reference;
  const cost = new Float64Array(width * width);
  if (reference.gate && expert.gate) await addon().addProduct(reference.gate, expert.gate, width, hidden, cost);
  await addon().addProduct(reference.up, expert.up, width, hidden, cost);
  const referenceDown = transpose(reference.down, hidden, width);
  await addon().addProduct(referenceDown, transpose(expert.down, hidden, width), width, hidden, cost);
  const permutation = new Int32Array(width);
  await addon().assign(cost, width, permutation);
  return permutation;
}

/** The expert with its hidden neurons reordered; its function is unchanged. */
export function permuteNeurons(expert: ExpertMatrices, permutation: Int32Array): ExpertMatrices {
  const { width, hidden } = expert;
  const rows = (matrix: Float32Array): Float32Array => {
    const result = new Float32Array(matrix.length);
    permutation.forEach((from, to) => {
      result.set(matrix.subarray(from * hidden, (from + 1) * hidden), to * hidden);
    });
    return result;
  };
  const down = new Float32Array(expert.down.length);
  for (let row = 0; row < hidden; row++) {
    for (let to = 0; to < width; to++) {
      down[row * width + to] = expert.down[row * width + (permutation[to] as number)] as number;
    }
  }
  return { width, hidden, gate: expert.gate && rows(expert.gate), up: rows(expert.up), down };
}
