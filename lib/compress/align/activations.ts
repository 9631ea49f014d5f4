import { assign } from '../numerics.ts';

/** Sums over the same rows of what two experts' hidden neurons give, all f64. */
export interface HiddenPair {
  readonly rows: number;
  /** Σ a, [width], of the reference. */
  readonly sums: Float64Array;
  /** Σ a², [width]. */
  readonly squares: Float64Array;
  /** Σ b, [width], of the other expert. */
  readonly otherSums: Float64Array;
  /** Σ b², [width]. */
  readonly otherSquares: Float64Array;
  /** Σ a·bᵀ, [width, width]. */
  readonly cross: Float64Array;
}

/** Keeps neurons that never change from dividing by zero. */
const smallestDeviation = 1e-7;

/**
 * Pearson correlation of every hidden neuron of one expert with every one of another, f64 [width, width], from sums
 * that can be streamed; deviations with rows − 1. A neuron that never changes correlates with none.
 */
export function hiddenCorrelation(pair: HiddenPair): Float64Array {
  const { rows, sums, squares, otherSums, otherSquares, cross } = pair;
  const width = sums.length;
  const correlation = new Float64Array(width * width);
  if (rows < 2) return correlation;
  const deviation = deviations(rows, sums, squares);
  const otherDeviation = deviations(rows, otherSums, otherSquares);
  for (let i = 0; i < width; i++) {
    for (let j = 0; j < width; j++) {
      const covariance =
        ((cross[i * width + j] as number) - ((sums[i] as number) * (otherSums[j] as number)) / rows) / (rows - 1);
      correlation[i * width + j] =
        covariance / ((deviation[i] as number) * (otherDeviation[j] as number) + smallestDeviation);
    }
  }
  return correlation;
}

/**
 * The order of the other expert's hidden neurons whose activations correlate best with the reference's ("activation
 * matching" of MC-SMoE's code, after ZipIt). Two rows at least: with fewer the order stays.
 *
 * @returns i32 [width]; neuron i of the aligned expert is neuron permutation[i] of the other one.
 */
export async function activationAlignment(pair: HiddenPair): Promise<Int32Array> {
  const width = pair.sums.length;
  if (pair.rows < 2) return Int32Array.from({ length: width }, (_, neuron) => neuron);
  return assign(hiddenCorrelation(pair), width);
}

function deviations(rows: number, sums: Float64Array, squares: Float64Array): Float64Array {
  return sums.map((sum, i) => Math.sqrt(Math.max(0, (squares[i] as number) - (sum * sum) / rows) / (rows - 1)));
}
