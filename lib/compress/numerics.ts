/**
 * Linear algebra in f64 for the compression methods, native and threaded, off the event loop. Matrices are row-major; shapes are
 * given beside each. Results are the same for any number of threads. Values that are not finite, and arrays of another size than
 * the shapes say, reject with INVALID_ARGUMENT.
 */
import { addon, type FloatArray, type NativeWeightForm } from '../addon.ts';

/** Linear assignment: the column of each row, a permutation, that maximizes Σ cost[i, column[i]]; cost [n, n]. O(n³). */
export async function assign(cost: Float64Array, n: number): Promise<Int32Array> {
  const columns = new Int32Array(n);
  await addon().assign(cost, n, columns);
  return columns;
}

/** cost += a·bᵀ in place, for f32 a and b [rows, columns], cost f64 [rows, rows]. */
export async function addProduct(
  a: Float32Array,
  b: Float32Array,
  rows: number,
  columns: number,
  cost: Float64Array,
): Promise<void> {
  await addon().addProduct(a, b, rows, columns, cost);
}

export interface ProductShape {
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
  /** b is [columns, depth] and a·bᵀ is meant. */
  readonly transposed?: boolean;
}

/** a·b or a·bᵀ for a [rows, depth], b [depth, columns] or [columns, depth], each f32 or f64: f64 [rows, columns]. */
export async function product(a: FloatArray, b: FloatArray, shape: ProductShape): Promise<Float64Array> {
  const { rows, columns, depth, transposed = false } = shape;
  const to = new Float64Array(rows * columns);
  await addon().product(a, b, transposed, rows, columns, depth, to);
  return to;
}

/** As {@link product}, each f64 sum rounded once to f32. */
export async function productF32(a: FloatArray, b: FloatArray, shape: ProductShape): Promise<Float32Array> {
  const { rows, columns, depth, transposed = false } = shape;
  const to = new Float32Array(rows * columns);
  await addon().product(a, b, transposed, rows, columns, depth, to);
  return to;
}

/**
 * L, lower [n, n], of a + ridge·I = L·Lᵀ. `a` is symmetric positive semi-definite; its lower triangle is read.
 * INVALID_ARGUMENT where a + ridge·I is not positive definite: a larger ridge makes it so.
 */
export async function cholesky(a: Float64Array, n: number, ridge = 0): Promise<Float64Array> {
  const to = new Float64Array(n * n);
  await addon().cholesky(a, n, ridge, to);
  return to;
}

/** (a + ridge·I)⁻¹ [n, n], by {@link cholesky} and with its errors. */
export async function symmetricInverse(a: Float64Array, n: number, ridge = 0): Promise<Float64Array> {
  const to = new Float64Array(n * n);
  await addon().symmetricInverse(a, n, ridge, to);
  return to;
}

/**
 * X [rows, n] of X·(a + ridge·I) = b + ridge·x0: the ridge regression that stays near x0 [rows, n]. a [n, n] and its errors as for
 * {@link cholesky}, b [rows, n].
 */
export async function ridgeSolve(
  a: Float64Array,
  b: Float64Array,
  x0: Float64Array,
  n: number,
  rows: number,
  ridge: number,
): Promise<Float64Array> {
  const x = new Float64Array(rows * n);
  await addon().ridgeSolve(a, b, x0, n, rows, ridge, x);
  return x;
}

/** m·L [rows, n] for m [rows, n] and L lower [n, n]. */
export async function triangularProduct(
  m: Float64Array,
  l: Float64Array,
  rows: number,
  n: number,
): Promise<Float64Array> {
  const to = new Float64Array(rows * n);
  await addon().triangularProduct(m, l, rows, n, to);
  return to;
}

/** z [rows, n] of z·L = x, or of z·Lᵀ = x where `transposed`. L lower [n, n] without a zero on its diagonal. */
export async function triangularSolve(
  l: Float64Array,
  x: Float64Array,
  rows: number,
  n: number,
  transposed = false,
): Promise<Float64Array> {
  const z = x.slice();
  await addon().triangularSolve(l, transposed, n, rows, z);
  return z;
}

export interface Eigen {
  /** [n], falling. */
  readonly values: Float64Array;
  /** [count, n]; row i belongs to values[i]. */
  readonly vectors: Float64Array;
}

/** Eigenvalues, and eigenvectors of the `count` largest (all by default), of a symmetric a [n, n]; its lower triangle is read. */
export async function symmetricEigen(a: Float64Array, n: number, count = n): Promise<Eigen> {
  const values = new Float64Array(n);
  const vectors = new Float64Array(count * n);
  await addon().symmetricEigen(a, n, count, values, vectors);
  return { values, vectors };
}

export interface TruncatedSvd {
  /** [rows, rank] */
  readonly u: Float64Array;
  /** [rank], falling. */
  readonly s: Float64Array;
  /** [rank, columns] */
  readonly vt: Float64Array;
  /** Share of the squared norm (of m·L where whitened) that the rank keeps. */
  readonly captured: number;
}

/**
 * The matrix u·diag(s)·vt of the given rank, 1 … min(rows, columns), that is nearest to m [rows, columns]. With `whiten`, L lower
 * [columns, columns] of a statistic H = L·Lᵀ, it minimizes ‖(m − u·diag(s)·vt)·L‖ (SVD-LLM, section 3.2): u and s are those of m·L,
 * and vt = diag(s)⁻¹·uᵀ·m. Columns of u and rows of vt beyond the rank of m are zero.
 */
export async function truncatedSvd(
  m: FloatArray,
  rows: number,
  columns: number,
  rank: number,
  { whiten }: { whiten?: Float64Array } = {},
): Promise<TruncatedSvd> {
  const u = new Float64Array(rows * rank);
  const s = new Float64Array(rank);
  const vt = new Float64Array(rank * columns);
  const captured = new Float64Array(1);
  await addon().truncatedSvd(m, rows, columns, rank, whiten, u, s, vt, captured);
  return { u, s, vt, captured: captured[0] as number };
}

export interface NeuronCurve {
  /** [width]: neurons in the order of their removal. */
  readonly order: Int32Array;
  /** [width]: the largest cost up to each step, rising. */
  readonly curve: Float64Array;
}

/**
 * The greedy removal of an expert's neurons by structured Optimal Brain Surgeon (as ZipLM and SlimGPT): down D [hidden, width], h the
 * statistic Σ h·hᵀ [width, width] of the hidden activations. With P = (h + ridge·I)⁻¹ each step removes the j of least
 * ‖D_j‖² / P_jj, the lower index where two are equal, and repairs the rest.
 */
export async function neuronCurve(
  down: FloatArray,
  h: Float64Array,
  hidden: number,
  width: number,
  ridge: number,
): Promise<NeuronCurve> {
  const order = new Int32Array(width);
  const curve = new Float64Array(width);
  await addon().neuronCurve(down, h, hidden, width, ridge, order, curve);
  return { order, curve };
}

/** The columns [hidden, kept.length] of D for the `kept` neurons, rising, once all others are removed as in {@link neuronCurve}. */
export async function refitNeurons(
  down: FloatArray,
  h: Float64Array,
  hidden: number,
  width: number,
  ridge: number,
  kept: Int32Array,
): Promise<Float64Array> {
  const to = new Float64Array(hidden * kept.length);
  await addon().refitNeurons(down, h, hidden, width, ridge, kept, kept.length, to);
  return to;
}

export interface SlimNeurons extends NeuronCurve {
  /** [keep], rising: those of `order` that are removed last. */
  readonly kept: Int32Array;
  /** [hidden, keep] */
  readonly down: Float64Array;
}

/** {@link neuronCurve}, then {@link refitNeurons} for the `keep` neurons that it removes last; keep 1 … width. */
export async function slimNeurons(
  down: FloatArray,
  h: Float64Array,
  hidden: number,
  width: number,
  ridge: number,
  keep: number,
): Promise<SlimNeurons> {
  const { order, curve } = await neuronCurve(down, h, hidden, width, ridge);
  const kept = order.slice(width - keep).sort();
  return { order, curve, kept, down: await refitNeurons(down, h, hidden, width, ridge, kept) };
}

export interface GptqOptions {
  /** int4 or int8 with its group, offsets and the dtype of its scales; not dual-grained. */
  readonly form: NativeWeightForm;
  /** Codes used: 2 … 4 under int4, 2 … 8 under int8. Default: all of the form. */
  readonly bits?: number;
  /** Share of the mean diagonal of the statistic that is added to it. Default 0.01. */
  readonly damping?: number;
  /** Visit columns by falling statistic ("act-order"); the groups' scales are then those of the original weights ("static groups"). */
  readonly bySize?: boolean;
  /**
   * Grids as the published quantizer makes them: a whole zero point, and steps of 2·max / (2ᵇ − 1) where symmetric. By default they
   * are made as round to nearest makes them (docs/weights.md): real offsets, and the better of the two ends where symmetric.
   */
  readonly published?: boolean;
}

export interface Gptq {
  /** The plain form of docs/weights.md. */
  readonly values: Uint8Array;
  readonly scale: Uint8Array;
  readonly offset: Uint8Array | undefined;
  /** [rows, columns] */
  readonly dequantized: Float32Array;
}

/**
 * Quantizes weight [rows, columns] column by column, carrying each error to the columns after it (GPTQ, algorithm 1; blocks of 128).
 * hessian = Σ x·xᵀ [columns, columns] over the layer's inputs, at any scale. Inputs that are always 0 count as weights 0.
 */
export async function gptq(
  weight: Float32Array,
  hessian: Float64Array,
  rows: number,
  columns: number,
  options: GptqOptions,
): Promise<Gptq> {
  const { form, damping = 0.01, bySize = false, published = false } = options;
  const four = form.store === 'i4';
  const { bits = four ? 4 : 8 } = options;
  const groups = form.group ? Math.ceil(columns / form.group) : 1;
  const scaleBytes = rows * groups * (form.scale === 'f16' ? 2 : 4);
  const values = new Uint8Array(rows * (four ? Math.ceil(columns / 2) : columns));
  const scale = new Uint8Array(scaleBytes);
  const offset = form.offset ? new Uint8Array(scaleBytes) : undefined;
  const dequantized = new Float32Array(rows * columns);
  await addon().gptq(
    weight,
    hessian,
    rows,
    columns,
    form,
    bits,
    damping,
    bySize,
    published,
    values,
    scale,
    offset,
    dequantized,
  );
  return { values, scale, offset, dequantized };
}

export interface SparseGptOptions {
  /** n kept of every m inputs in a row, 1 ≤ n ≤ m ≤ 256. */
  readonly n: number;
  readonly m: number;
  /** As in {@link GptqOptions}. */
  readonly damping?: number;
}

export interface SparseGpt {
  /** [rows, columns]: 1 where a weight is kept. */
  readonly mask: Uint8Array;
  /** [rows, columns]: the corrected weights, 0 where not kept. */
  readonly weight: Float32Array;
}

/**
 * Prunes weight [rows, columns] to n:m with error feedback (SparseGPT, algorithm 1): in each run of m inputs the n of largest
 * w² / U_jj² at that point stay, the lower index where two are equal. hessian as in {@link gptq}. Columns of inputs that are always 0
 * become 0, so a run may keep fewer than n.
 */
export async function sparseGpt(
  weight: Float32Array,
  hessian: Float64Array,
  rows: number,
  columns: number,
  { n, m, damping = 0.01 }: SparseGptOptions,
): Promise<SparseGpt> {
  const mask = new Uint8Array(rows * columns);
  const corrected = new Float32Array(rows * columns);
  await addon().sparseGpt(weight, hessian, rows, columns, n, m, damping, mask, corrected);
  return { mask, weight: corrected };
}

export interface PermutationOptions {
  /** n kept of every m inputs in a row; 1 ≤ n < m ≤ 64, and m divides the columns. */
  readonly n: number;
  readonly m: number;
  /** Random restarts from the best order found; each costs as much as the first search at most. Default 0. */
  readonly attempts?: number;
}

export interface Permutation {
  /** [columns]: new column j is old column permutation[j]. */
  readonly permutation: Int32Array;
  /** Σ of the n largest |w| of each run and row, in the order given and in the one found. */
  readonly before: number;
  readonly after: number;
}

/**
 * An order of the inputs of weight [rows, columns] under which n:m pruning by magnitude keeps more (the aim of "Channel permutations
 * for N:M sparsity", Pool and Yu 2021), by swaps of inputs between runs. Whoever makes those inputs has to follow: in an expert, the
 * rows of gate and up with the columns of down.
 */
export async function searchPermutation(
  weight: Float32Array,
  rows: number,
  columns: number,
  { n, m, attempts = 0 }: PermutationOptions,
): Promise<Permutation> {
  const permutation = new Int32Array(columns);
  const kept = new Float64Array(2);
  await addon().searchPermutation(weight, rows, columns, n, m, attempts, permutation, kept);
  const [before, after] = kept as unknown as [number, number];
  return { permutation, before, after };
}
