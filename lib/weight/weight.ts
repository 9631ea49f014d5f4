/** A bank of matrices, packed for its device: a plain linear layer is a bank of one slot. */
import type { NativePiece, NativeWeight, NativeWeightSpec } from '../addon.ts';
import { invalid, requireInteger, requireObject } from '../arguments.ts';
import { cancellation } from '../device/cancellation.ts';
import { type Device, requireDevice } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import { toHost } from '../tensor/dtype.ts';
import { nativeForm, type WeightFormat } from './format.ts';

export interface WeightSpec {
  /** Inputs of a slot, the widest where they differ. */
  in: number;
  /** Output rows of a slot, the widest where they differ; gate and up together where `gated`. */
  out: number;
  /** Matrices in the bank. Default 1. */
  slots?: number | undefined;
  /** A slot's rows are out/2 gate rows, then out/2 up rows. Default false. */
  gated?: boolean | undefined;
  /** [slots] widths where slots differ. */
  inOf?: readonly number[] | undefined;
  outOf?: readonly number[] | undefined;
  format: WeightFormat;
  /** Default false. */
  bias?: boolean | undefined;
}

/**
 * Owns a packed bank in the memory of `device` until `dispose()`. Graphs and programs that use it keep it alive.
 *
 * @example
 * const weight = await Weight.from(device, { in: 64, out: 64, format: { format: 'int8' } }, matrix); // Float32Array [64, 64]
 */
export class Weight {
  readonly device: Device;
  readonly spec: WeightSpec;
  /** Held by the packed bank. */
  readonly bytes: number;
  readonly #native: NativeWeight;
  #disposed = false;

  /** Only for what `load` and `from` made: not for a proxy or an object with the prototype. */
  static [Symbol.hasInstance](value: unknown): value is Weight {
    return typeof value === 'object' && value !== null && #native in value;
  }

  private constructor(device: Device, spec: WeightSpec, native: NativeWeight) {
    this.device = device;
    this.spec = Object.freeze(spec);
    this.bytes = native.bytes;
    this.#native = native;
  }

  /**
   * Streams `pieces` into a new bank, off the event loop; they must cover every row of every slot (and bias) once. An abort
   * rejects with `signal.reason`. Throws INVALID_ARGUMENT, SHAPE_MISMATCH, DTYPE_MISMATCH, OUT_OF_MEMORY, FILE_UNREADABLE, DISPOSED.
   */
  static async load(
    device: Device,
    spec: WeightSpec,
    pieces: readonly NativePiece[],
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<Weight> {
    requireDevice(device);
    if (!Array.isArray(pieces)) throw invalid('pieces', 'a list of pieces', pieces);
    // A copy: the caller may change the object while the bank is loaded.
    const { format, ...sizes } = requireObject(spec, 'spec');
    const own = { ...sizes, format: { ...requireObject(format, 'format') } };
    const cancel = cancellation(requireObject(options).signal);
    try {
      return new Weight(device, own, await device.native.loadWeight(nativeSpec(own), pieces, cancel?.native));
    } catch (error) {
      throw cancel?.reason(error) ?? error;
    } finally {
      cancel?.end();
    }
  }

  /**
   * A bank of f32 rows: `values` is [slots, out, in] (each slot at its own widths), `bias` [slots, out], needed where
   * `spec.bias` is true; `values` are rounded to the format here. Throws as {@link Weight.load}.
   */
  static async from(device: Device, spec: WeightSpec, values: Float32Array, bias?: Float32Array): Promise<Weight> {
    const pieces = floatPieces(requireObject(spec, 'spec'), values, bias);
    return Weight.load(device, { ...spec, bias: bias !== undefined }, pieces);
  }

  get disposed(): boolean {
    return this.#disposed || this.device.disposed;
  }

  /** @internal Throws DISPOSED, which names `argument`. */
  native(argument = 'weight'): NativeWeight {
    if (this.disposed)
      throw new MoeError('DISPOSED', { argument, expected: 'a live weight', received: 'a disposed one' });
    return this.#native;
  }

  /** Gives the memory back, now or after the last program that uses it. A second call does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function nativeSpec(spec: WeightSpec): NativeWeightSpec {
  const { slots = 1, gated = false, bias = false, inOf, outOf } = spec;
  const base = nativeForm(spec.format);
  return { in: spec.in, out: spec.out, slots, gated, base, bias, ...(inOf && { inOf }), ...(outOf && { outOf }) };
}

function floatPieces(spec: WeightSpec, values: Float32Array, bias: Float32Array | undefined): NativePiece[] {
  toHost(values, 'f32', 'values');
  if (bias !== undefined || spec.bias) toHost(bias as Float32Array, 'f32', 'bias');
  const { slots = 1 } = spec;
  requireInteger(spec.in, 'in');
  requireInteger(spec.out, 'out');
  // Every slot has an element: a huge number of slots ends here, not after as many pieces.
  if (requireInteger(slots, 'slots') > values.length)
    requireLength('values', values.length, slots * spec.in * spec.out);
  for (const name of ['inOf', 'outOf'] as const) {
    const widths = spec[name] ?? [];
    if (!Array.isArray(widths)) throw invalid(name, 'a list of widths', widths);
    for (const width of widths) requireInteger(width, name);
  }
  const form = { store: 'f32' } as const;
  const pieces: NativePiece[] = [];
  let value = 0;
  let biasRow = 0;
  for (let slot = 0; slot < slots; slot++) {
    const rows = spec.outOf?.[slot] ?? spec.out;
    const size = rows * (spec.inOf?.[slot] ?? spec.in);
    pieces.push({ part: 'base', slot, row: 0, rows, form, values: values.subarray(value, value + size) });
    value += size;
    if (bias) pieces.push({ part: 'bias', slot, row: 0, rows, form, values: bias.subarray(biasRow, biasRow + rows) });
    biasRow += rows;
  }
  requireLength('values', values.length, value);
  if (bias) requireLength('bias', bias.length, biasRow);
  return pieces;
}

function requireLength(argument: string, received: number, expected: number): void {
  if (received === expected) return;
  throw new MoeError('SHAPE_MISMATCH', { argument, expected: `${expected} elements`, received: String(received) });
}
