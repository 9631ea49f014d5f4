/** A matrix as low rank, with whole rows or an n:m part beside it, nearest on what the matrix really reads. */
import { MoeError } from '../../errors.ts';
import type { Factors, KeptRows, Matrix, SparseMatrix } from '../experts.ts';
import { cholesky, product, sparseGpt, triangularProduct, truncatedSvd } from '../numerics.ts';

/** The metric of an error E [rows, columns]: ‖diag(row)·E·L‖, where L·Lᵀ is the second moment of the inputs. */
export interface Metric {
  /** Lower, f64 [columns, columns]; absent: the inputs count alike. */
  readonly whiten?: Float64Array | undefined;
  /** f64 [rows]; absent: the rows count alike. */
  readonly row?: Float64Array | undefined;
}

export interface Shape {
  readonly rows: number;
  readonly columns: number;
}

/** Rounds of choosing rows or places and factors in turn; later ones change almost nothing. */
const rounds = 4;

/** L of H + λI, λ a thousandth of the mean diagonal; undefined where nothing was seen. */
export async function whiteningOf(moment: Float64Array, n: number): Promise<Float64Array | undefined> {
  let trace = 0;
  for (let i = 0; i < n; i++) trace += moment[i * n + i] as number;
  return trace > 0 ? cholesky(moment, n, (1e-3 * trace) / n) : undefined;
}

/** The factors of one rank that are nearest to a matrix (truncated SVD; whitened as in SVD-LLM, section 3.2). */
export async function lowRank(
  weight: Float32Array,
  { rows, columns }: Shape,
  rank: number,
  { whiten, row }: Metric,
): Promise<Factors> {
  const scaled = row ? weight.map((value, at) => value * (row[Math.floor(at / columns)] as number)) : weight;
  const { u, s, vt } = await truncatedSvd(scaled, rows, columns, rank, whiten ? { whiten } : {});
  // The root of the spectrum on each side keeps both in the range of 16-bit floats.
  const a = Float32Array.from(vt, (value, at) => value * Math.sqrt(s[Math.floor(at / columns)] as number));
  const b = Float32Array.from(u, (value, at) => {
    const scale = row ? (row[Math.floor(at / rank)] as number) : 1;
    return scale > 0 ? (value * Math.sqrt(s[at % rank] as number)) / scale : 0;
  });
  return { rank, a, b };
}

/**
 * Low rank with `count` rows kept whole: rows and factors are chosen in turn. Kept rows leave the factors to the others; those are kept whose
 * error is largest.
 */
export async function lowRankWithRows(
  weight: Float32Array,
  shape: Shape,
  rank: number,
  count: number,
  metric: Metric,
): Promise<Matrix> {
  const { rows, columns } = shape;
  let kept: Int32Array = new Int32Array();
  let factors = await lowRank(weight, shape, rank, metric);
  for (let round = 0; round < (count > 0 ? rounds : 0); round++) {
    const errors = await rowErrors(await residual(weight, factors, shape), shape, metric);
    const next = largest(errors, count);
    if (round > 0 && next.every((row, at) => row === kept[at])) break;
    kept = next;
    const others = Float32Array.from(weight);
    for (const row of kept) others.fill(0, row * columns, (row + 1) * columns);
    factors = await lowRank(others, shape, rank, metric);
    for (const row of kept) factors.b.fill(0, row * rank, (row + 1) * rank);
  }
  const rest: KeptRows = { index: kept, values: takeRows(weight, columns, kept) };
  return { rows, columns, factors, ...(kept.length > 0 && { kept: rest }) };
}

/** Low rank with an n:m part: SparseGPT of what the factors miss, and factors of what it misses, in turn. */
export async function lowRankWithSparse(
  weight: Float32Array,
  shape: Shape,
  rank: number,
  { n, m }: { n: number; m: number },
  moment: Float64Array,
  metric: Metric,
): Promise<Matrix> {
  const { rows, columns } = shape;
  let factors = await lowRank(weight, shape, rank, metric);
  let sparse: SparseMatrix | undefined;
  for (let round = 0; round < rounds; round++) {
    const pruned = await sparseGpt(await residual(weight, factors, shape), moment, rows, columns, { n, m });
    sparse = gather(pruned.weight, pruned.mask, shape, n, m);
    const rest = weight.map((value, at) => value - (pruned.weight[at] as number));
    factors = await lowRank(rest, shape, rank, metric);
  }
  return { rows, columns, factors, ...(sparse && { sparse }) };
}

/** The kept values of a masked matrix [rows, columns] with their places. */
export function gather(
  weight: Float32Array,
  mask: Uint8Array,
  { rows, columns }: Shape,
  n: number,
  m: number,
): SparseMatrix {
  const blocks = Math.ceil(columns / m);
  const values = new Float32Array(rows * blocks * n);
  const index = new Uint8Array(rows * blocks * n);
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const to = (row * blocks + block) * n;
      let count = 0;
      for (let place = 0; place < m && block * m + place < columns; place++) {
        const at = row * columns + block * m + place;
        if (mask[at] === 0 || count === n) continue;
        values[to + count] = weight[at] as number;
        index[to + count++] = place;
      }
      // A block that keeps fewer holds zeros at places of its own.
      for (let place = 0; count < n; place++) {
        if (index.subarray(to, to + count).includes(place)) continue;
        index[to + count++] = place;
      }
      sortBlock(values, index, to, n);
    }
  }
  return { n, m, values, index };
}

function sortBlock(values: Float32Array, index: Uint8Array, at: number, n: number): void {
  const pairs = Array.from({ length: n }, (_, i) => [index[at + i] as number, values[at + i] as number] as const);
  pairs.sort(([a], [b]) => a - b);
  pairs.forEach(([place, value], i) => {
    index[at + i] = place;
    values[at + i] = value;
  });
}

/** W − B·A. */
/** What the factors miss of a matrix. */
export async function residual(
  weight: Float32Array,
  { rank, a, b }: Factors,
  { rows, columns }: Shape,
): Promise<Float32Array> {
  const low = await product(b, a, { rows, columns, depth: rank });
  const rest = new Float32Array(weight.length);
  for (let at = 0; at < rest.length; at++) rest[at] = (weight[at] as number) - (low[at] as number);
  return rest;
}

/** Squared errors of the rows in the metric. */
async function rowErrors(
  error: Float32Array,
  { rows, columns }: Shape,
  { whiten, row }: Metric,
): Promise<Float64Array> {
  const plain = Float64Array.from(error);
  const seen = whiten ? await triangularProduct(plain, whiten, rows, columns) : plain;
  return Float64Array.from({ length: rows }, (_, at) => {
    const sum = seen.subarray(at * columns, (at + 1) * columns).reduce((total, value) => total + value * value, 0);
    return sum * (row ? (row[at] as number) ** 2 : 1);
  });
}

/** The indices of the `count` largest, ascending; ties to the lower. */
function largest(values: Float64Array, count: number): Int32Array {
  const order = Array.from(values.keys()).sort((a, b) => (values[b] as number) - (values[a] as number) || a - b);
  return Int32Array.from(order.slice(0, count)).sort();
}

function takeRows(matrix: Float32Array, columns: number, rows: Int32Array): Float32Array {
  const taken = new Float32Array(rows.length * columns);
  rows.forEach((from, to) => {
    taken.set(matrix.subarray(from * columns, (from + 1) * columns), to * columns);
  });
  return taken;
}

/** 'n:m' as numbers. Throws RECIPE_INVALID naming `argument`. */
export function patternOf(text: string, argument: string): { n: number; m: number } {
  const [n = 0, m = 0] = text.split(':').map(Number);
  if (n >= 1 && n < m && m <= 256) return { n, m };
  throw new MoeError('RECIPE_INVALID', { argument, expected: 'n:m with 1 ≤ n < m ≤ 256', received: text });
}
