/** Removing hidden neurons of one expert (structured optimal brain surgery, as OSSCAR and SlimGPT), and refitting what is left. */
import type { ExpertMatrices } from '../expert.ts';
import { type NeuronCurve, neuronCurve, refitNeurons } from '../numerics.ts';
import { type RefitStatistics, ridgeSolve } from '../recover/ridge.ts';

/** The order in which an expert's neurons go, and what that costs. `gram`: Σ g²·h·hᵀ, f64 [width, width]. */
export function removalCurve({ down, width, hidden }: ExpertMatrices, gram: Float64Array): Promise<NeuronCurve> {
  return neuronCurve(down, gram, hidden, width, removalRidge(gram, width));
}

/**
 * The expert with the neurons that a curve removes last.
 *
 * @param width how many stay, 1 … the expert's own
 * @param refit whether the down projection is fitted to the targets of `statistics`; else it only makes up for the neurons removed
 */
export async function slimExpert(
  expert: ExpertMatrices,
  statistics: RefitStatistics,
  curve: NeuronCurve,
  width: number,
  refit: boolean,
): Promise<ExpertMatrices> {
  const { hidden } = expert;
  if (width === expert.width) return refit ? refitExpert(expert, statistics) : expert;
  const kept = curve.order.slice(expert.width - width).sort();
  const { gram, cross, rows } = statistics;
  const ridge = removalRidge(gram, expert.width);
  const repaired = Float32Array.from(await refitNeurons(expert.down, gram, hidden, expert.width, ridge, kept));
  const inner = new Float64Array(width * width);
  kept.forEach((from, to) => {
    kept.forEach((other, at) => {
      inner[to * width + at] = gram[from * expert.width + other] as number;
    });
  });
  const down = refit
    ? await ridgeSolve(
        { gram: inner, cross: takeColumns(cross, hidden, expert.width, kept), rows },
        repaired,
        width,
        hidden,
      )
    : repaired;
  const rowsOf = (matrix: Float32Array): Float32Array => takeRows(matrix, hidden, kept);
  return { hidden, width, gate: expert.gate && rowsOf(expert.gate), up: rowsOf(expert.up), down };
}

/** The expert with its down projection fitted to the targets of `statistics`, nothing removed: what removals are weighed against. */
export async function refitExpert(expert: ExpertMatrices, statistics: RefitStatistics): Promise<ExpertMatrices> {
  return { ...expert, down: await ridgeSolve(statistics, expert.down, expert.width, expert.hidden) };
}

function removalRidge(gram: Float64Array, width: number): number {
  let trace = 0;
  for (let j = 0; j < width; j++) trace += gram[j * width + j] as number;
  return (1e-3 * trace) / width + 1e-6;
}

function takeRows(matrix: Float32Array, columns: number, rows: Int32Array): Float32Array {
  const taken = new Float32Array(rows.length * columns);
  rows.forEach((from, to) => {
    taken.set(matrix.subarray(from * columns, (from + 1) * columns), to * columns);
  });
  return taken;
}

function takeColumns(matrix: Float64Array, rows: number, stride: number, columns: Int32Array): Float64Array {
  const taken = new Float64Array(rows * columns.length);
  for (let row = 0; row < rows; row++) {
    columns.forEach((from, to) => {
      taken[row * columns.length + to] = matrix[row * stride + from] as number;
    });
  }
  return taken;
}
