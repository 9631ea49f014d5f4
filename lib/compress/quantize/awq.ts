/** Scales of a matrix's inputs under which rounding costs least (AWQ, arXiv 2306.00978, section 3.2). */
import { rowErrors } from './rounding.ts';

export interface ScaledMatrix {
  /** f32 [rows, columns]. */
  readonly weight: Float32Array;
  readonly rows: number;
}

export interface InputStatistics {
  /** [columns]: how large each input is, the mean of |x| or its root mean square. */
  readonly magnitude: Float64Array;
  /** Σ x·xᵀ, f64 [columns, columns]. */
  readonly moment: Float64Array;
}

/** What is left of a matrix [rows, columns] once it is stored. */
export type Round = (weight: Float32Array, rows: number, columns: number) => Promise<Float32Array>;

export interface AwqOptions {
  readonly round: Round;
  /** [columns]: how large each column of the weights is next to its group; given, inputs with small weights are scaled up too. */
  readonly weightMagnitude?: Float64Array | undefined;
}

export interface AwqScales {
  /** f32 [columns]: the matrices are multiplied by them, their inputs divided. */
  readonly scales: Float32Array;
  /** Σ of the squared output errors of all matrices, for each exponent 0, 1/20 … 19/20. */
  readonly losses: readonly number[];
}

/** Exponents that are tried. */
const steps = 20;

/** Below it scales are no smaller. */
const smallest = 1e-4;

/**
 * One scale for each input of matrices that share it: its magnitude to a power, the power by trial. The first of equal losses wins.
 */
export async function searchScales(
  matrices: readonly ScaledMatrix[],
  { magnitude, moment }: InputStatistics,
  { round, weightMagnitude }: AwqOptions,
): Promise<AwqScales> {
  const columns = magnitude.length;
  const losses: number[] = [];
  let best: { scales: Float32Array; loss: number } = {
    scales: new Float32Array(columns).fill(1),
    loss: Number.POSITIVE_INFINITY,
  };
  for (const scales of candidateScales(magnitude, weightMagnitude)) {
    let loss = 0;
    for (const { weight, rows } of matrices) {
      const stored = await round(scaleColumns(weight, scales), rows, columns);
      const error = stored.map((value, at) => value / (scales[at % columns] as number) - (weight[at] as number));
      for (const square of await rowErrors(error, moment, rows, columns)) loss += square;
    }
    losses.push(loss);
    if (loss < best.loss) best = { scales, loss };
  }
  return { scales: best.scales, losses };
}

/** Scales by rising exponents, from 0, under which all are 1 unless weights count too. */
export function* candidateScales(magnitude: Float64Array, weightMagnitude?: Float64Array): Generator<Float32Array> {
  for (let step = 0; step < steps; step++) yield scalesOf(magnitude, weightMagnitude, step / steps);
}

/** Every column times its scale. */
export function scaleColumns(weight: Float32Array, scales: ArrayLike<number>): Float32Array {
  return weight.map((value, at) => value * (scales[at % scales.length] as number));
}

/** Every row divided by its scale. */
export function divideRows(weight: Float32Array, scales: ArrayLike<number>): Float32Array {
  const columns = weight.length / scales.length;
  return weight.map((value, at) => value / (scales[Math.floor(at / columns)] as number));
}

/** Scales whose largest and smallest are each other's inverse, so that a matrix keeps its size. */
function scalesOf(magnitude: Float64Array, weightMagnitude: Float64Array | undefined, exponent: number): Float32Array {
  const scales = magnitude.map((x, at) => {
    const weights = weightMagnitude ? (weightMagnitude[at] as number) ** (1 - exponent) + smallest : 1;
    return Math.max(x ** exponent / weights, smallest);
  });
  const [low, high] = scales.reduce(([l, h], s) => [Math.min(l, s), Math.max(h, s)], [Number.POSITIVE_INFINITY, 0]);
  const centre = Math.sqrt(low * high);
  return Float32Array.from(scales, (scale) => scale / centre);
}
