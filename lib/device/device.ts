/** An open device: what memory, queues, weights and graphs belong to. */
import type { NativeDevice, NativeLimits, NativeMemory, NativeQueue } from '../addon.ts';
import { invalid } from '../arguments.ts';
import { MoeError } from '../errors.ts';

/** Made by `openDevice`. */
export class Device {
  /** 'cpu', 'reference', 'cuda', … */
  readonly name: string;
  readonly index: number;
  /** After `openDevice('auto')`: why it is not a faster device. */
  readonly reason: string | undefined;
  /** What the device says about itself: instruction sets, threads, …; keys differ between devices. */
  readonly description: Readonly<Record<string, unknown>>;
  readonly #native: NativeDevice;
  readonly #queue: NativeQueue;
  #limits: NativeLimits | undefined;
  #disposed = false;

  /** @internal */
  constructor(native: NativeDevice, index: number, reason: string | undefined) {
    this.#native = native;
    this.#queue = native.createQueue(0);
    this.name = native.backend;
    this.index = index;
    this.reason = reason;
    this.description = Object.freeze(JSON.parse(native.describe()) as Record<string, unknown>);
  }

  /** Only for what `openDevice` made: not for a proxy or an object with the prototype. */
  static [Symbol.hasInstance](value: unknown): value is Device {
    return typeof value === 'object' && value !== null && #native in value;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /** @internal Throws DISPOSED. */
  get native(): NativeDevice {
    if (this.#disposed) throw this.#isDisposed();
    return this.#native;
  }

  /** @internal The queue on which programs run and tensors are copied, in order. Throws DISPOSED. */
  get queue(): NativeQueue {
    if (this.#disposed) throw this.#isDisposed();
    return this.#queue;
  }

  /** Bytes held now, held at most, and the limit (0: none). Throws DISPOSED. */
  memory(): NativeMemory {
    return this.native.memory();
  }

  /**
   * Measures what the device can do at best, in about a second: bytes/s of a streaming read, operations/s in f32, bf16 and int8;
   * 0 for what it cannot measure. Profiles of later runs have shares of it. Throws DISPOSED.
   */
  async limits(): Promise<NativeLimits> {
    this.#limits = await this.native.limits();
    return this.#limits;
  }

  /** @internal What `limits()` last measured. */
  get measuredLimits(): NativeLimits | undefined {
    return this.#limits;
  }

  /** Later calls throw DISPOSED; what is running ends first and is freed then. A second call does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#queue.dispose();
    this.#native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  #isDisposed(): MoeError {
    return new MoeError('DISPOSED', {
      argument: 'device',
      expected: 'an open device',
      received: `${this.name}:${this.index}, disposed`,
    });
  }
}

/** @internal `device`, an open one or not. Throws INVALID_ARGUMENT for anything else. */
export function requireDevice(device: Device): Device {
  if (device instanceof Device) return device;
  throw invalid('device', 'a Device of openDevice()', device);
}
