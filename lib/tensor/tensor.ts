/** A dense array in a device's memory. */
import type { HostArray, NativeBuffer } from '../addon.ts';
import { invalid, requireObject } from '../arguments.ts';
import { type Device, requireDevice } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import { type Dtype, dtypeBytes, type HostArrays, hostArray, toHost } from './dtype.ts';
import { track } from './scope.ts';
import { elementCount, formatShape } from './shape.ts';

/**
 * Owns native memory of `device` until `dispose()`, the end of its `scope()`, or, as the last net, garbage collection.
 * A run that uses the tensor keeps the memory until it is done.
 *
 * @example
 * const x = await Tensor.from(device, new Float32Array(128), { dtype: 'f32', shape: [2, 64] });
 * const copy = await x.read(); // Float32Array [128]
 * x.dispose();
 */
export class Tensor<D extends Dtype = Dtype> {
  readonly device: Device;
  readonly dtype: D;
  readonly shape: readonly number[];
  /** Elements × bytes of one. */
  readonly bytes: number;
  /** Product of the shape. */
  readonly length: number;
  readonly #buffer: NativeBuffer;
  #disposed = false;

  private constructor(device: Device, dtype: D, shape: readonly number[]) {
    this.device = requireDevice(device);
    this.dtype = dtype;
    this.length = elementCount(shape);
    this.shape = Object.freeze(shape.map((dimension) => dimension + 0)); // −0 is 0
    this.bytes = this.length * dtypeBytes(dtype);
    if (!Number.isSafeInteger(this.bytes)) {
      const received = `${dtype} ${formatShape(shape)}`;
      throw new MoeError('OUT_OF_MEMORY', { argument: 'shape', expected: 'fewer than 2⁵³ bytes', received });
    }
    this.#buffer = device.native.allocate(this.bytes);
  }

  /**
   * A tensor whose contents are undefined. Throws SHAPE_MISMATCH, DTYPE_MISMATCH, OUT_OF_MEMORY, DISPOSED.
   */
  static empty<D extends Dtype>(device: Device, dtype: D, shape: readonly number[]): Tensor<D> {
    const tensor = new Tensor(device, dtype, shape);
    track(tensor);
    return tensor;
  }

  /** A tensor of zeros. Throws as {@link Tensor.empty}. */
  static async zeros<D extends Dtype>(device: Device, dtype: D, shape: readonly number[]): Promise<Tensor<D>> {
    const tensor = Tensor.empty(device, dtype, shape);
    // Written in blocks: a cache of gigabytes must not cost the same again on the host.
    const block = hostArray(dtype, Math.min(tensor.length, 1 << 20));
    for (let offset = 0; offset < tensor.length; offset += block.length) {
      const part = block.subarray(0, tensor.length - offset) as HostArrays[D];
      await tensor.write(part, { offset });
    }
    return tensor;
  }

  /**
   * A tensor with a copy of `data`, whose length must be that of the shape.
   * Throws SHAPE_MISMATCH, DTYPE_MISMATCH, INVALID_ARGUMENT (detached or shared memory), OUT_OF_MEMORY, DISPOSED.
   */
  static async from<D extends Dtype>(
    device: Device,
    data: HostArrays[D],
    options: { dtype: D; shape: readonly number[] },
  ): Promise<Tensor<D>> {
    const tensor = Tensor.#sized(device, data, options);
    track(tensor);
    await tensor.write(data);
    return tensor;
  }

  /** @internal As `from`, on the calling thread and in no scope: for small constants that a graph owns. */
  static ownedSync<D extends Dtype>(
    device: Device,
    data: HostArrays[D],
    options: { dtype: D; shape: readonly number[] },
  ): Tensor<D> {
    const tensor = Tensor.#sized(device, data, options);
    if (tensor.bytes > 0) device.queue.writeSync(tensor.#buffer, 0, toHost(data, options.dtype, 'data'));
    return tensor;
  }

  static #sized<D extends Dtype>(
    device: Device,
    data: HostArrays[D],
    options: { dtype: D; shape: readonly number[] },
  ): Tensor<D> {
    const { dtype, shape } = requireObject(options);
    const host = toHost(data, dtype, 'data');
    const length = elementCount(shape);
    if (host.length !== length) {
      throw new MoeError('SHAPE_MISMATCH', {
        argument: 'data',
        expected: `${length} elements for ${formatShape(shape)}`,
        received: String(host.length),
      });
    }
    return new Tensor(device, dtype, shape);
  }

  /** Only for what the functions above made: not for a proxy or an object with the prototype. */
  static [Symbol.hasInstance](value: unknown): value is Tensor {
    return typeof value === 'object' && value !== null && #buffer in value;
  }

  get disposed(): boolean {
    return this.#disposed || this.device.disposed;
  }

  /** @internal The native buffer. Throws DISPOSED, which names `argument`. */
  native(argument = 'tensor'): NativeBuffer {
    if (this.disposed) {
      throw new MoeError('DISPOSED', {
        argument,
        expected: 'a live tensor',
        received: `a disposed ${this.dtype} tensor ${formatShape(this.shape)}`,
      });
    }
    return this.#buffer;
  }

  /**
   * Copies `data` to the elements from `offset` on. The source is copied before the call returns.
   * Throws DISPOSED, DTYPE_MISMATCH, SHAPE_MISMATCH (it does not fit), INVALID_ARGUMENT.
   */
  async write(data: HostArrays[D], options: { offset?: number /* elements */ } = {}): Promise<void> {
    const buffer = this.native();
    const host = toHost(data, this.dtype, 'data');
    const { offset = 0 } = requireObject(options);
    if (!Number.isSafeInteger(offset) || offset < 0)
      throw invalid('offset', 'elements, whole and not negative', offset);
    if (offset + host.length > this.length) {
      throw new MoeError('SHAPE_MISMATCH', {
        argument: 'data',
        expected: `to lie within the ${this.length} elements of ${formatShape(this.shape)}`,
        received: `${host.length} elements at offset ${offset}`,
      });
    }
    if (host.length > 0) await this.device.queue.write(buffer, offset * dtypeBytes(this.dtype), host);
  }

  /** The contents, in `into` or a new array. Throws DISPOSED, DTYPE_MISMATCH, SHAPE_MISMATCH, INVALID_ARGUMENT. */
  async read(into?: HostArrays[D]): Promise<HostArrays[D]> {
    const { buffer, result, host } = this.#readTarget(into);
    if (host.length > 0) await this.device.queue.read(buffer, 0, host);
    return result;
  }

  /** As {@link Tensor.read}, waiting on the calling thread for the runs before it. */
  readSync(into?: HostArrays[D]): HostArrays[D] {
    const { buffer, result, host } = this.#readTarget(into);
    if (host.length > 0) this.device.queue.readSync(buffer, 0, host);
    return result;
  }

  #readTarget(into: HostArrays[D] | undefined): { buffer: NativeBuffer; result: HostArrays[D]; host: HostArray } {
    const buffer = this.native();
    const result = into ?? hostArray(this.dtype, this.length);
    const host = toHost(result, this.dtype, 'into');
    if (host.length !== this.length) {
      throw new MoeError('SHAPE_MISMATCH', {
        argument: 'into',
        expected: `${this.length} elements for ${formatShape(this.shape)}`,
        received: String(host.length),
      });
    }
    return { buffer, result, host };
  }

  /** Gives the memory back, now or after the last run that uses it. A second call does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#buffer.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
