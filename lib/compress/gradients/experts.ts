/** SwiGLU experts of dense f32 matrices on a device, forward and back. */
import type { Device } from '../../device/device.ts';
import type { Graph } from '../../graph/graph.ts';
import type { Routing } from '../../graph/routing.ts';
import type { Value } from '../../graph/value.ts';
import { Weight } from '../../weight/weight.ts';
import { type ExpertMatrices, transpose } from '../expert.ts';

export type MatrixName = 'gate' | 'up' | 'down';

export const matrixNames: readonly MatrixName[] = ['gate', 'up', 'down'];

/** One matrix of each kind, shaped as the expert's own: gate and up [width, hidden], down [hidden, width]. */
export type ExpertGradients = Readonly<Record<MatrixName, Float32Array>>;

/** Rows of a routing, or tokens where an MLP stands alone. */
export interface ExpertValues {
  /** gate·x, up·x, silu(gate·x) and what down reads, f32 [rows, width]. */
  readonly z: Value;
  readonly u: Value;
  readonly a: Value;
  readonly h: Value;
  /** What down gives, f32 [rows, hidden]. */
  readonly y: Value;
}

/** The matrices of all slots and their transposes; narrower slots have zeros up to the widest. */
export class DenseBanks {
  readonly slots: number;
  readonly hidden: number;
  /** Of the widest slot. */
  readonly width: number;
  readonly #device: Device;
  readonly #experts: readonly ExpertMatrices[];
  readonly #weights = new Map<string, Weight>();

  private constructor(device: Device, experts: readonly ExpertMatrices[]) {
    this.#device = device;
    this.#experts = experts;
    this.slots = experts.length;
    this.hidden = (experts[0] as ExpertMatrices).hidden;
    this.width = Math.max(...experts.map((expert) => expert.width), 1);
  }

  /** @param o.toInput with the transposes of gate and up, for {@link DenseBanks.toInput} */
  static async from(
    device: Device,
    experts: readonly ExpertMatrices[],
    o: { toInput?: boolean } = {},
  ): Promise<DenseBanks> {
    const banks = new DenseBanks(device, experts);
    const { width, hidden } = banks;
    const wide = { out: width, in: hidden };
    const tall = { out: hidden, in: width };
    try {
      await banks.#add('gate', wide, ({ gate }) => gate as Float32Array);
      await banks.#add('up', wide, ({ up }) => up);
      await banks.#add('down', tall, ({ down, width: own }) => widened(down, hidden, own, width));
      await banks.#add('downBack', wide, ({ down, width: own }) => transpose(down, hidden, own));
      if (!o.toInput) return banks;
      const back = (matrix: Float32Array, own: number): Float32Array =>
        widened(transpose(matrix, own, hidden), hidden, own, width);
      await banks.#add('gateBack', tall, ({ gate, width: own }) => back(gate as Float32Array, own));
      await banks.#add('upBack', tall, ({ up, width: own }) => back(up, own));
      return banks;
    } catch (error) {
      banks.dispose();
      throw error;
    }
  }

  /** f64 states for {@link DenseBanks.accumulate}: gate and up as they are, down transposed. */
  get shapes(): Readonly<Record<MatrixName, readonly number[]>> {
    const shape = [this.slots, this.width, this.hidden];
    return { gate: shape, up: shape, down: shape };
  }

  /** @param x f32 [tokens, hidden] */
  forward(graph: Graph, x: Value, routing?: Routing): ExpertValues {
    const z = graph.linear(x, this.#bank('gate'), { routing });
    const u = graph.linear(x, this.#bank('up'), { routing });
    const a = graph.map('silu', z);
    const h = graph.multiply(a, u);
    return { z, u, a, h, y: graph.linear(h, this.#bank('down'), { routing, gather: false }) };
  }

  /** ∂loss/∂z and ∂loss/∂u of ∂loss/∂y, f32 [rows, hidden]. */
  back(graph: Graph, { z, u, a }: ExpertValues, slope: Value, routing?: Routing): { z: Value; u: Value } {
    // silu(z)' = σ + silu(z)·(1 − σ), σ the sigmoid of z.
    const sigmoid = graph.map('sigmoid', z);
    const rest = graph.map('scale', sigmoid, undefined, { alpha: -1, beta: 1 });
    const derivative = graph.add(sigmoid, graph.multiply(a, rest));
    const h = graph.linear(slope, this.#bank('downBack'), { routing, gather: false });
    return { z: graph.multiply(graph.multiply(h, u), derivative), u: graph.multiply(h, a) };
  }

  /** ∂loss/∂x, f32 [rows, hidden], of what {@link DenseBanks.back} gives. */
  toInput(graph: Graph, { z, u }: { z: Value; u: Value }, routing?: Routing): Value {
    const o = { routing, gather: false };
    return graph.add(graph.linear(z, this.#bank('gateBack'), o), graph.linear(u, this.#bank('upBack'), o));
  }

  /**
   * Goes back through the routed experts, and adds up the gradients of their matrices, each row by its gate.
   *
   * @param o.x f32 [tokens, hidden]
   * @param o.slope ∂loss/∂(what the block gives), f32 [tokens, hidden]
   * @returns what {@link DenseBanks.back} gives, and the slope row by row, gates left out
   */
  accumulate(
    graph: Graph,
    { x, slope, routing, values }: { x: Value; slope: Value; routing: Routing; values: ExpertValues },
    states: Readonly<Record<MatrixName, Value>>,
  ): { z: Value; u: Value; rows: Value } {
    const rows = graph.take(slope, routing.tokenOf);
    const slopes = this.back(graph, values, rows, routing);
    const b = graph.take(x, routing.tokenOf);
    const weighted = { routing, gatePower: 1 } as const;
    graph.accumulate('gram', slopes.z, states.gate, { b, ...weighted });
    graph.accumulate('gram', slopes.u, states.up, { b, ...weighted });
    graph.accumulate('gram', values.h, states.down, { b: rows, ...weighted });
    return { ...slopes, rows };
  }

  /** The sums, slot by slot at its own width. */
  gradients(sums: Readonly<Record<MatrixName, Float64Array>>): ExpertGradients[] {
    const { width, hidden } = this;
    return this.#experts.map(({ width: own }, slot) => {
      const of = (all: Float64Array): Float32Array =>
        Float32Array.from(all.subarray(slot * width * hidden, (slot * width + own) * hidden));
      return { gate: of(sums.gate), up: of(sums.up), down: transpose(of(sums.down), own, hidden) };
    });
  }

  dispose(): void {
    for (const weight of this.#weights.values()) weight.dispose();
    this.#weights.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #bank(name: string): Weight {
    return this.#weights.get(name) as Weight;
  }

  async #add(
    name: string,
    shape: { out: number; in: number },
    matrixOf: (expert: ExpertMatrices) => Float32Array,
  ): Promise<void> {
    const size = shape.out * shape.in;
    const all = new Float32Array(this.slots * size);
    for (const [slot, expert] of this.#experts.entries()) all.set(matrixOf(expert), slot * size);
    const spec = { ...shape, slots: this.slots, format: { format: 'f32' } } as const;
    this.#weights.set(name, await Weight.from(this.#device, spec, all));
  }
}

/** [rows, columns] with columns of zeros behind, up to `width`. */
function widened(matrix: Float32Array, rows: number, columns: number, width: number): Float32Array {
  if (columns === width) return matrix;
  const wide = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) wide.set(matrix.subarray(row * columns, (row + 1) * columns), row * width);
  return wide;
}
