/**
 * Finds and loads the native binary; the only file that knows the native objects' shape.
 *
 * Native methods check every argument and throw {@link MoeError}; asynchronous ones reject with it. No native method returns
 * memory that JavaScript sees: results land in typed arrays that the caller made.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { MoeError } from './errors.ts';

/** A view over memory that JavaScript owns. SharedArrayBuffer views are refused by the native side. */
export type HostArray = Float32Array | Float64Array | Uint16Array | Int32Array | Int8Array | Uint8Array;

/** A matrix that the numerics take in either precision. */
export type FloatArray = Float32Array | Float64Array;

/** `factor × size[symbol]`; a plain number is a fixed dimension. Only the first dimension may carry a symbol. */
export type NativeDimension = number | { factor: number; symbol: string };

export interface NativeBackend {
  readonly name: string;
  readonly count: number;
  /** '' where count > 0; else the error code, what it is about, what would have to be there and what was found. */
  readonly code: string;
  /** A GPU's backend says in one word why there is none; see `DeviceReason`. */
  readonly argument: string;
  readonly expected: string;
  readonly received: string;
}

export interface NativeMemory {
  readonly held: number;
  readonly peak: number;
  /** 0: none. */
  readonly limit: number;
}

export interface NativeLimits {
  readonly readBytesPerSecond: number;
  readonly f32OperationsPerSecond: number;
  readonly int8OperationsPerSecond: number;
  /** Of matrix products; 0 where the device has no units for them. */
  readonly bf16OperationsPerSecond: number;
}

/** How a part of a bank is kept; see docs/weights.md. group 0: one scale a row. */
export interface NativeWeightForm {
  store: 'f32' | 'f16' | 'bf16' | 'i8' | 'i4';
  /** i8 under an outer scale, and only there. */
  scale?: 'f16' | 'f32' | 'i8';
  offset?: boolean;
  group?: number;
  /** Dtype of the outer scale a row (dual-grained). */
  outer?: 'f16' | 'f32';
}

export interface NativeWeightSpec {
  in: number;
  out: number;
  slots: number;
  gated: boolean;
  /** Widths a slot, where they differ. */
  inOf?: readonly number[];
  outOf?: readonly number[];
  base?: NativeWeightForm;
  /** [slots], the base matrix of each, where they share them. */
  baseOf?: readonly number[];
  /** A number, or one a slot. */
  lowRank?: { form: NativeWeightForm; rank: number | readonly number[] };
  rows?: { form: NativeWeightForm; count: number | readonly number[] };
  sparse?: { form: NativeWeightForm; n: number; m: number };
  bias: boolean;
}

/** Bytes of a mapped file or a typed array. */
export type NativeBytes = { file: NativeFile; offset: number; bytes: number } | HostArray;

/**
 * Some rows of one slot in the form that the file holds; the native side converts them to the bank's form (float to float,
 * round-to-nearest quantization, or dequantization).
 */
export interface NativePiece {
  part: 'base' | 'bias' | 'factorIn' | 'factorOut' | 'rows' | 'sparse';
  /** Of the part: with `baseOf` the base has slots of its own. */
  slot: number;
  row: number;
  rows: number;
  /** Form of the source; a bias and a factor are f32, f16 or bf16. */
  form: NativeWeightForm;
  values: NativeBytes;
  scale?: NativeBytes;
  offset?: NativeBytes;
  outer?: NativeBytes;
  /** rows: i32, the output row of each; sparse: u8, the place of each value among its m inputs. */
  index?: NativeBytes;
}

export interface NativeDevice {
  readonly backend: string;
  /** JSON. */
  describe(): string;
  memory(): NativeMemory;
  limits(): Promise<NativeLimits>;
  createQueue(priority: number): NativeQueue;
  allocate(bytes: number): NativeBuffer;
  /** Streams the pieces into a new bank, off the event loop; `cancel.cancel()` stops it with ABORTED. */
  loadWeight(spec: NativeWeightSpec, pieces: readonly NativePiece[], cancel?: NativeCancel): Promise<NativeWeight>;
  createGraph(): NativeGraph;
  /** Frees what is idle now and the rest when the last run is done. Later calls throw DISPOSED. */
  dispose(): void;
}

/** Stops the runs and loads that it was given to; it cannot be taken back. Any number may share one. */
export interface NativeCancel {
  cancel(): void;
}

/** One thread that runs programs and copies in order. */
export interface NativeQueue {
  /** Copies into the buffer; the source is copied before the call returns. */
  write(to: NativeBuffer, byteOffset: number, from: HostArray): Promise<void>;
  read(from: NativeBuffer, byteOffset: number, to: HostArray): Promise<void>;
  writeSync(to: NativeBuffer, byteOffset: number, from: HostArray): void;
  readSync(from: NativeBuffer, byteOffset: number, to: HostArray): void;
  dispose(): void;
}

export interface NativeBuffer {
  readonly bytes: number;
  dispose(): void;
}

export interface NativeWeight {
  /** Bytes held by the packed bank. */
  readonly bytes: number;
  dispose(): void;
}

/** What the core made of a node's output. */
export interface NativeValueType {
  readonly dtype: string;
  readonly shape: readonly NativeDimension[];
}

export interface NativeGraph {
  input(name: string, dtype: string, shape: readonly NativeDimension[]): number;
  state(name: string, dtype: string, shape: readonly NativeDimension[]): number;
  constant(buffer: NativeBuffer, dtype: string, shape: readonly number[]): number;
  weight(weight: NativeWeight): number;
  /**
   * Adds a node; dtype and shape are checked now. `operation` and attribute names are those of the core's operation table
   * (camelCase of operations.h; enums by their lower-case name: 'softmax', 'gelu_tanh', …). Absent inputs are -1.
   * Returns the value index of each output, -1 for one that the inputs rule out.
   */
  node(operation: string, inputs: readonly number[], attributes: Record<string, unknown>, name?: string): number[];
  output(name: string, value: number): void;
  type(value: number): NativeValueType;
  /** Ends assembly: the graph cannot grow after it. maxSizes: a bound for every symbol used. */
  compile(maxSizes: Record<string, number>): NativeProgram;
}

/** A binding is a buffer of the same device, or host memory: read from (input) or written to at completion (output). */
export type NativeBinding = NativeBuffer | HostArray;

export interface NativeProfileNode {
  readonly operation: string;
  readonly name: string;
  readonly nanoseconds: number;
  /** By the operation's own count at this run's sizes; a grouped weight counts min(slots, rows) slots. */
  readonly bytes: number;
  readonly operations: number;
}

export interface NativeProgram {
  /** Names in binding order: inputs and states as declared, then outputs. */
  readonly bindings: readonly {
    readonly name: string;
    readonly role: 'input' | 'state' | 'output';
    readonly dtype: string;
    readonly shape: readonly NativeDimension[];
  }[];
  readonly symbols: readonly string[];
  /** Planned bytes of the arena (inner values and scratch). */
  readonly arenaBytes: number;
  /**
   * `bindings` and `sizes` in the order of the fields above. Host inputs are copied before the call returns; host outputs are
   * written on the JavaScript thread when the promise resolves (a buffer detached meanwhile rejects). `cancel.cancel()` drops the
   * run where it has not started and else stops it between nodes, with ABORTED.
   */
  run(
    queue: NativeQueue,
    bindings: readonly NativeBinding[],
    sizes: readonly number[],
    cancel: NativeCancel | undefined,
    profile: boolean,
  ): Promise<NativeProfileNode[] | undefined>;
  /** Runs on the calling thread once the queue is idle. */
  runSync(
    queue: NativeQueue,
    bindings: readonly NativeBinding[],
    sizes: readonly number[],
    profile: boolean,
  ): NativeProfileNode[] | undefined;
  dispose(): void;
}

/** A file mapped read-only. */
export interface NativeFile {
  readonly bytes: number;
  /** Copies `to.byteLength` bytes from `offset`. */
  read(offset: number, to: HostArray): void;
  dispose(): void;
}

export interface NativeAddon {
  readonly abi: number;
  /** Gives the native side the class that it throws. */
  setErrorClass(errorClass: typeof MoeError): void;
  backends(): NativeBackend[];
  /** options: lines of `key=value`. */
  openDevice(backend: string, index: number, options: string): NativeDevice;
  openFile(path: string): NativeFile;
  createCancel(): NativeCancel;

  /** f32 rows [rows, columns] to the plain form; `values`, `scale`, `offset`, `outer` are filled. Round to nearest. */
  quantize(
    from: Float32Array,
    rows: number,
    columns: number,
    form: NativeWeightForm,
    values: Uint8Array,
    scale: Uint8Array | undefined,
    offset: Uint8Array | undefined,
    outer?: Uint8Array,
  ): Promise<void>;
  /** Any form to f32 [rows, columns]. */
  dequantize(
    values: NativeBytes,
    scale: NativeBytes | undefined,
    offset: NativeBytes | undefined,
    rows: number,
    columns: number,
    form: NativeWeightForm,
    to: Float32Array,
    outer?: NativeBytes,
  ): Promise<void>;
  // What follows is documented in lib/compress/numerics.ts, whose functions make the arrays and call these.
  assign(cost: Float64Array, n: number, columns: Int32Array): Promise<void>;
  addProduct(a: Float32Array, b: Float32Array, rows: number, columns: number, cost: Float64Array): Promise<void>;
  product(
    a: FloatArray,
    b: FloatArray,
    transposed: boolean,
    rows: number,
    columns: number,
    depth: number,
    to: FloatArray,
  ): Promise<void>;
  cholesky(a: Float64Array, n: number, ridge: number, to: Float64Array): Promise<void>;
  symmetricInverse(a: Float64Array, n: number, ridge: number, to: Float64Array): Promise<void>;
  ridgeSolve(
    a: Float64Array,
    b: Float64Array,
    x0: Float64Array,
    n: number,
    rows: number,
    ridge: number,
    x: Float64Array,
  ): Promise<void>;
  triangularProduct(m: Float64Array, l: Float64Array, rows: number, n: number, to: Float64Array): Promise<void>;
  /** x is replaced by the solution. */
  triangularSolve(l: Float64Array, transposed: boolean, n: number, rows: number, x: Float64Array): Promise<void>;
  symmetricEigen(a: Float64Array, n: number, count: number, values: Float64Array, vectors: Float64Array): Promise<void>;
  truncatedSvd(
    m: FloatArray,
    rows: number,
    columns: number,
    rank: number,
    whiten: Float64Array | undefined,
    u: Float64Array,
    s: Float64Array,
    vt: Float64Array,
    captured: Float64Array,
  ): Promise<void>;
  neuronCurve(
    down: FloatArray,
    h: Float64Array,
    hidden: number,
    width: number,
    ridge: number,
    order: Int32Array,
    curve: Float64Array,
  ): Promise<void>;
  refitNeurons(
    down: FloatArray,
    h: Float64Array,
    hidden: number,
    width: number,
    ridge: number,
    kept: Int32Array,
    count: number,
    to: Float64Array,
  ): Promise<void>;
  gptq(
    weight: Float32Array,
    hessian: Float64Array,
    rows: number,
    columns: number,
    form: NativeWeightForm,
    bits: number,
    damping: number,
    bySize: boolean,
    published: boolean,
    values: Uint8Array,
    scale: Uint8Array,
    offset: Uint8Array | undefined,
    dequantized: Float32Array,
  ): Promise<void>;
  sparseGpt(
    weight: Float32Array,
    hessian: Float64Array,
    rows: number,
    columns: number,
    n: number,
    m: number,
    damping: number,
    mask: Uint8Array,
    to: Float32Array,
  ): Promise<void>;
  searchPermutation(
    weight: Float32Array,
    rows: number,
    columns: number,
    n: number,
    m: number,
    attempts: number,
    permutation: Int32Array,
    kept: Float64Array,
  ): Promise<void>;
  /** Gives what was freed in native memory back to the system. */
  releaseMemory(): Promise<void>;
}

let loaded: NativeAddon | undefined;

/** The native addon, loaded at first use. Throws ADDON_MISSING with what was looked for. */
export function addon(): NativeAddon {
  if (loaded) return loaded;
  const require = createRequire(import.meta.url);
  const root = fileURLToPath(new URL('..', import.meta.url));
  try {
    loaded = (require('node-gyp-build') as (directory: string) => NativeAddon)(root);
  } catch (cause) {
    throw new MoeError('ADDON_MISSING', {
      argument: 'native addon',
      expected: `prebuilds/${process.platform}-${process.arch}/node.napi.node or build/Release/node_moe.node in ${root} (npm run build)`,
      received: cause instanceof Error ? cause.message : String(cause),
      cause,
    });
  }
  loaded.setErrorClass(MoeError);
  return loaded;
}
