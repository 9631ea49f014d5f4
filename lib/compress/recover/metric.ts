/** The metric in which the rows of gate and up move: what the squared error would be if slopes and inputs were independent. */
import type { Device } from '../../device/device.ts';
import { Graph } from '../../graph/graph.ts';
import type { Program } from '../../graph/program.ts';
import { Weight } from '../../weight/weight.ts';
import type { InputMoments } from '../layer-context.ts';
import { symmetricInverse } from '../numerics.ts';

/** The rows of one slot in each part of a vector: gates (where there are any), then ups. */
interface SlotRows {
  readonly first: number;
  readonly end: number;
  /** Times the identity, added to the second moment of what the slot reads. */
  readonly ridge: number;
  /** z = (second moment + ridge)⁻¹·r, row by row. */
  readonly inverse: Program<'z'>;
}

export class Metric {
  readonly #device: Device;
  readonly #hidden: number;
  readonly #slots: SlotRows[] = [];
  #weight: Float64Array = new Float64Array();

  constructor(device: Device, hidden: number) {
    this.#device = device;
    this.#hidden = hidden;
  }

  /** Rows of a vector in one of its parts. */
  get #rows(): number {
    return this.#slots.at(-1)?.end ?? 0;
  }

  /** Takes a slot of so many rows, behind those that were taken before. */
  async add(width: number, { gram, rows }: InputMoments): Promise<void> {
    const hidden = this.#hidden;
    const ridge = ridgeFor(gram, hidden, rows);
    const values = Float32Array.from(await symmetricInverse(gram, hidden, ridge));
    // A program keeps the weights that it uses.
    using weight = await Weight.from(this.#device, { in: hidden, out: hidden, format: { format: 'f32' } }, values);
    const graph = new Graph(this.#device);
    const r = graph.input('r', 'f32', ['rows', hidden]);
    const inverse = graph.output('z', graph.linear(r, weight)).compile({ rows: width });
    this.#slots.push({ first: this.#rows, end: this.#rows + width, ridge, inverse });
  }

  /** How much each row counts, of all parts of a vector: ‖its down column‖² · mean slope². */
  weigh(rows: Float64Array): void {
    this.#weight = rows;
  }

  /** Writes M⁻¹·r, and resolves to rᵀ·M⁻¹·r. */
  async solve(r: Float32Array, into: Float32Array): Promise<number> {
    const hidden = this.#hidden;
    let energy = 0;
    for (const { begin, end, inverse } of this.#blocks()) {
      const own = [begin * hidden, end * hidden] as const;
      const z = into.subarray(...own);
      await inverse.run({ r: r.subarray(...own) }, { into: { z } });
      for (let row = begin; row < end; row++) {
        const weight = this.#weight[row] as number;
        const scale = weight > 0 ? 1 / weight : 0;
        for (let at = row * hidden; at < (row + 1) * hidden; at++) {
          into[at] = scale * (into[at] as number);
          energy += (r[at] as number) * (into[at] as number);
        }
      }
    }
    return energy;
  }

  /** Adds the ridge times p. */
  addRidge(p: Float32Array, into: Float32Array): void {
    const hidden = this.#hidden;
    for (const { begin, end, ridge } of this.#blocks()) {
      for (let row = begin; row < end; row++) {
        const factor = ridge * (this.#weight[row] as number);
        for (let at = row * hidden; at < (row + 1) * hidden; at++) {
          into[at] = (into[at] as number) + factor * (p[at] as number);
        }
      }
    }
  }

  dispose(): void {
    for (const { inverse } of this.#slots) inverse.dispose();
  }

  /** The rows of each slot in each part of a vector. */
  *#blocks(): Generator<{ begin: number; end: number; ridge: number; inverse: Program<'z'> }> {
    for (let part = 0; part < this.#weight.length; part += this.#rows) {
      for (const { first, end, ridge, inverse } of this.#slots) {
        yield { begin: part + first, end: part + end, ridge, inverse };
      }
    }
  }
}

/**
 * The mean of the second moment's diagonal, as the derivative holds only near where it was taken, and more of it the fewer the rows are: with
 * ten times as many as there are inputs twice as much.
 */
function ridgeFor(moment: Float64Array, hidden: number, rows: number): number {
  let trace = 0;
  for (let i = 0; i < hidden; i++) trace += moment[i * hidden + i] as number;
  return (trace / hidden) * (1 + ((10 * hidden) / Math.max(1, rows)) ** 2) + 1e-6;
}
