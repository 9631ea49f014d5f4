/** Builds one case on one device, runs it, and reads everything that it wrote. */
import {
  bf16ToF32,
  type Device,
  type Dtype,
  type ExpertBank,
  type ExpertKind,
  expertBank,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  Graph,
  type HostArray,
  type Shape,
  Tensor,
  type Value,
  Weight,
  type WeightSpec,
} from '../../lib/index.ts';
import { bankData, type Parts } from './bank-data.ts';
import type { BoundName } from './compare.ts';
import { generator, integers, normals, shuffled } from './random.ts';

export interface Case {
  /** The one awkward thing. */
  readonly title: string;
  readonly bound: BoundName;
  /** Length of the sums; default 1. */
  readonly k?: number;
  /** Devices that refuse it as UNSUPPORTED. */
  readonly refusedBy?: readonly string[];
  build(kit: Kit): Promise<void> | void;
}

export interface Result {
  readonly name: string;
  readonly dtype: Dtype;
  readonly data: HostArray;
}

interface Output {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly (number | { factor: number; symbol: string })[];
  readonly live: Live | undefined;
}

/** Which rows of an output count; the others are unspecified. Sees the outputs of the same run. */
export type Live = (outputs: ReadonlyMap<string, HostArray>) => (row: number) => boolean;

/** Rows of a routing that exist: those below the last of the offsets in output `name`. */
export const rowsBelow =
  (name: string): Live =>
  (outputs) => {
    const rows = outputs.get(name)?.at(-1) ?? 0;
    return (row) => row < rows;
  };

export class Kit {
  readonly device: Device;
  readonly g: Graph;
  readonly random: () => number;
  readonly #inputs: { name: string; dtype: Dtype; runs: HostArray[] }[] = [];
  readonly #states: { name: string; tensor: Tensor; dtype: Dtype }[] = [];
  readonly #outputs: Output[] = [];
  readonly #owned: { dispose(): void }[] = [];
  readonly #maxSizes: Record<string, number> = {};
  #sizes: Record<string, number>[] = [];

  constructor(device: Device, seed: number) {
    this.device = device;
    this.g = new Graph(device);
    this.random = generator(seed);
  }

  normal(count: number, deviation = 1): Float32Array {
    return normals(this.random, count, deviation);
  }

  ints(count: number, low: number, high: number): Int32Array {
    return integers(this.random, count, low, high);
  }

  order(count: number): Int32Array {
    return shuffled(this.random, count);
  }

  /** An input with the data of each run; floats are rounded to the dtype here. */
  input(name: string, dtype: Dtype, shape: Shape, ...runs: (Float32Array | Int32Array)[]): Value {
    this.#inputs.push({ name, dtype, runs: runs.map((data) => toDtype(data, dtype)) });
    const width = (shape.slice(1) as number[]).reduce((product, size) => product * size, 1);
    const [first] = shape;
    if (typeof first === 'string' || typeof first === 'object') {
      const { symbol, factor } = typeof first === 'string' ? { symbol: first, factor: 1 } : first;
      for (const [run, data] of runs.entries()) {
        this.#sizes[run] = { ...this.#sizes[run], [symbol]: data.length / width / factor };
        // Three more than any run uses, so that there is padding to leave alone.
        this.#maxSizes[symbol] = Math.max(this.#maxSizes[symbol] ?? 0, data.length / width / factor + 3);
      }
    }
    return this.g.input(name, dtype, shape);
  }

  /** x float [tokens, width], normal. */
  x(tokens: number, width: number, dtype: Dtype = 'f32', name = 'x'): Value {
    return this.input(name, dtype, ['tokens', width], this.normal(tokens * width));
  }

  /** A state of which the first `data` is given; it is compared after the last run. */
  async state(
    name: string,
    dtype: Dtype,
    shape: readonly number[],
    symbol?: string,
    data?: Float32Array,
  ): Promise<Value> {
    const tensor = data
      ? await Tensor.from(this.device, toDtype(data, dtype), { dtype, shape })
      : await Tensor.zeros(this.device, dtype, shape);
    this.#owned.push(tensor);
    this.#states.push({ name, tensor, dtype });
    if (symbol) this.#maxSizes[symbol] = shape[0] as number;
    return this.g.state(name, dtype, symbol ? [symbol, ...shape.slice(1)] : shape);
  }

  async tensor(dtype: Dtype, shape: readonly number[], data: Float32Array | Int32Array): Promise<Tensor> {
    const tensor = await Tensor.from(this.device, toDtype(data, dtype), { dtype, shape });
    this.#owned.push(tensor);
    return tensor;
  }

  /** Random data in every part of the spec. */
  async weight(spec: WeightSpec): Promise<Weight> {
    const weight = await Weight.from(this.device, spec, bankData(this.random, spec));
    this.#owned.push(weight);
    return weight;
  }

  async bank(
    kind: ExpertKind,
    slots: number,
    hidden: number,
    width: number,
    parts: Parts,
    options: { groupOf?: Int32Array; bias?: boolean } = {},
  ): Promise<ExpertBank> {
    const gated = kind === 'swiglu' || kind === 'geglu';
    const { bias = false, groupOf } = options;
    const up = await this.weight({ in: hidden, out: gated ? 2 * width : width, slots, gated, ...parts, bias });
    const down = await this.weight({ in: width, out: hidden, slots, ...parts, bias });
    return expertBank({ kind, up, down, groupOf });
  }

  output(name: string, value: Value, live?: Live): void {
    this.#outputs.push({ name, dtype: value.dtype, shape: value.shape, live });
    this.g.output(name, value);
  }

  /** Runs all the data; the results of every run, then the states. */
  async run(): Promise<Result[]> {
    const results: Result[] = [];
    const program = this.g.compile(this.#maxSizes);
    try {
      const runs = Math.max(1, ...this.#inputs.map((input) => input.runs.length));
      for (let run = 0; run < runs; run++) results.push(...(await this.#runOnce(program, run)));
      for (const { name, tensor, dtype } of this.#states) results.push({ name, dtype, data: await tensor.read() });
    } finally {
      program.dispose();
      this.dispose();
    }
    return results;
  }

  dispose(): void {
    for (const owned of this.#owned) owned.dispose();
  }

  async #runOnce(program: ReturnType<Graph['compile']>, run: number): Promise<Result[]> {
    const inputs: Record<string, Tensor | HostArray> = {};
    for (const { name, runs } of this.#inputs) inputs[name] = runs[Math.min(run, runs.length - 1)] as HostArray;
    for (const { name, tensor } of this.#states) inputs[name] = tensor;
    const outputs = await program.run(inputs, { sizes: this.#sizes[run] ?? {} });
    const read = new Map<string, HostArray>();
    for (const { name } of this.#outputs) read.set(name, await (outputs[name] as Tensor).read());
    for (const { name } of this.#outputs) outputs[name]?.dispose();
    return this.#outputs.map(({ name, dtype, shape, live }) => {
      const data = read.get(name) as HostArray;
      const width = (shape.slice(1) as number[]).reduce((product, size) => product * size, 1);
      const keep = live?.(read);
      if (keep) for (let i = 0; i < data.length; i++) if (!keep(Math.floor(i / width))) data[i] = 0;
      return { name: `${name}, run ${run}`, dtype, data };
    });
  }
}

/** Rounds to the dtype, half to even. */
export function toDtype(data: Float32Array | Int32Array, dtype: Dtype): HostArray {
  if (dtype === 'bf16') return f32ToBf16(data as Float32Array);
  if (dtype === 'f16') return f32ToF16(data as Float32Array);
  if (dtype === 'f64') return Float64Array.from(data);
  return data;
}

export function fromDtype(data: HostArray, dtype: Dtype): ArrayLike<number> {
  if (dtype === 'bf16') return bf16ToF32(data as Uint16Array);
  return dtype === 'f16' ? f16ToF32(data as Uint16Array) : data;
}
