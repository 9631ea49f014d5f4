/** A compiled graph: bind, run, many times. */
import type { NativeProgram } from '../addon.ts';
import { requireObject } from '../arguments.ts';
import { cancellation } from '../device/cancellation.ts';
import type { Device } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { type Bindable, Binder, type Bound } from './binding.ts';
import { keepProfile } from './profile.ts';

export interface RunSyncOptions {
  /** Outputs by name that land in the caller's arrays or tensors; the others are new tensors. */
  into?: Readonly<Record<string, Bindable>> | undefined;
  /** Sizes of symbols that no binding tells; must agree with those that one does. */
  sizes?: Readonly<Record<string, number>> | undefined;
  /** Keeps time, bytes and operations of each node for `profileOf(outputs)`. Default false. */
  profile?: boolean | undefined;
}

export interface RunOptions extends RunSyncOptions {
  /** An abort stops the run between nodes and rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
}

/** What `into` gave comes back as it is; every other output is a new tensor. `O`: names that are known to be there. */
export type Outputs<I, O extends string = never> = string extends keyof I
  ? Record<string, Bindable>
  : Record<string, Tensor> & Record<Exclude<O, keyof I>, Tensor> & I;

/**
 * Made by `Graph.compile`. Runs are ordered: each begins when the one before it on its device is done.
 *
 * @example
 * const y = new Float32Array(64);
 * await program.run({ x: new Float32Array(64) }, { into: { y }, signal });
 */
export class Program<O extends string = never> {
  readonly device: Device;
  /** Planned memory for inner values and scratch. */
  readonly arenaBytes: number;
  readonly #native: NativeProgram;
  readonly #binder: Binder;
  readonly #owned: readonly Tensor[];
  #disposed = false;

  /** @internal `owned`: constants that end with the program. */
  constructor(device: Device, native: NativeProgram, owned: readonly Tensor[]) {
    this.device = device;
    this.arenaBytes = native.arenaBytes;
    this.#native = native;
    this.#binder = new Binder(device, native);
    this.#owned = owned;
  }

  get disposed(): boolean {
    return this.#disposed || this.device.disposed;
  }

  /**
   * Runs off the event loop. Host arrays among the inputs are copied before the call returns; arrays in `into` are written when
   * the promise resolves. Rejects with DISPOSED, INVALID_ARGUMENT, SHAPE_MISMATCH, DTYPE_MISMATCH, OUT_OF_MEMORY, DEVICE_LOST.
   */
  async run<I extends Readonly<Record<string, Bindable>> = Record<never, never>>(
    inputs: Readonly<Record<string, Bindable>>,
    options: RunOptions & { into?: I | undefined } = {},
  ): Promise<Outputs<I, O>> {
    const cancel = cancellation(requireObject(options).signal);
    let bound: Bound | undefined;
    try {
      this.#requireLive();
      bound = this.#binder.bind(inputs, options.into, options.sizes);
      const nodes = await this.#native.run(
        this.device.queue,
        bound.bindings,
        bound.sizes,
        cancel?.native,
        options.profile === true,
      );
      options.signal?.throwIfAborted();
      if (nodes) keepProfile(bound.outputs, nodes, this.device.measuredLimits);
      return bound.outputs as Outputs<I, O>;
    } catch (error) {
      for (const tensor of bound?.made ?? []) tensor.dispose();
      throw cancel ? cancel.reason(error) : error;
    } finally {
      cancel?.end();
    }
  }

  /** As {@link Program.run} on the calling thread, which waits: for benchmarks and scripts. */
  runSync<I extends Readonly<Record<string, Bindable>> = Record<never, never>>(
    inputs: Readonly<Record<string, Bindable>>,
    options: RunSyncOptions & { into?: I | undefined } = {},
  ): Outputs<I, O> {
    this.#requireLive();
    const { bindings, sizes, outputs, made } = this.#binder.bind(inputs, requireObject(options).into, options.sizes);
    try {
      const nodes = this.#native.runSync(this.device.queue, bindings, sizes, options.profile === true);
      if (nodes) keepProfile(outputs, nodes, this.device.measuredLimits);
      return outputs as Outputs<I, O>;
    } catch (error) {
      for (const tensor of made) tensor.dispose();
      throw error;
    }
  }

  /** Gives the plan back, now or after its last run. Weights, constants and states stay. A second call does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#native.dispose();
    for (const tensor of this.#owned) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #requireLive(): void {
    if (!this.disposed) return;
    throw new MoeError('DISPOSED', { argument: 'program', expected: 'a live program', received: 'a disposed one' });
  }
}
