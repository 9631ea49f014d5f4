/** A bank of matrices, packed for its device: a plain linear layer is a bank of one slot. */
import type { NativePiece, NativeWeight } from '../addon.ts';
import { invalid, requireObject } from '../arguments.ts';
import { cancellation } from '../device/cancellation.ts';
import { type Device, requireDevice } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import { floatPieces, type WeightValues } from './pieces.ts';
import { copySpec, nativeSpec, type WeightSpec } from './spec.ts';

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
   * Streams `pieces` into a new bank, off the event loop; they must cover every row of every part of every slot once. An abort
   * rejects with `signal.reason`. UNSUPPORTED: the device has no form for a part. Throws INVALID_ARGUMENT, SHAPE_MISMATCH, DTYPE_MISMATCH, OUT_OF_MEMORY, FILE_UNREADABLE, DISPOSED.
   */
  static async load(
    device: Device,
    spec: WeightSpec,
    pieces: readonly NativePiece[],
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<Weight> {
    requireDevice(device);
    if (!Array.isArray(pieces)) throw invalid('pieces', 'a list of pieces', pieces);
    const own = copySpec(spec); // the caller may change the object while the bank is loaded
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
   * A bank of f32 data, which is rounded to the format of each part here. A plain Float32Array is the base alone: [slots, out, in],
   * each slot at its own widths. `bias` [slots, out] may stand beside it. Throws as {@link Weight.load}.
   */
  static async from(
    device: Device,
    spec: WeightSpec,
    values: Float32Array | WeightValues,
    bias?: Float32Array,
  ): Promise<Weight> {
    const given = ArrayBuffer.isView(values) ? { base: values } : { ...requireObject(values, 'values') };
    if (bias !== undefined) given.bias = bias;
    const own = copySpec(spec);
    own.bias = own.bias || given.bias !== undefined;
    return Weight.load(device, own, floatPieces(own, given));
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
