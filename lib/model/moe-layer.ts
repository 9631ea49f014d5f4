/** One MoE block of a checkpoint, alone: no norm, no residual, no attention. */
import { invalid, requireObject, requireSignal, show } from '../arguments.ts';
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import { compressedSection } from '../checkpoint/compressed.ts';
import { type Device, requireDevice } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import { Graph } from '../graph/graph.ts';
import type { Program } from '../graph/program.ts';
import { buildMoe, loadMoe, type MoeWeights } from '../moe/block.ts';
import type { WeightLoader } from '../moe/loader.ts';
import { moeNeeds, requireTensors } from '../moe/names.ts';
import type { MoeSpec } from '../moe/spec.ts';
import { toHost } from '../tensor/dtype.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { WeightFormat } from '../weight/format.ts';
import { familyOf } from './family.ts';
import { buckets } from './runner.ts';
import { openLoader, weightPlan } from './weights.ts';

export interface MoeLayerOptions {
  readonly device: Device;
  /** Format of routed and shared experts. Default: as stored. */
  readonly weights?: WeightFormat | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What the router did with each token, and the result. */
export interface MoeTrace {
  /** f32 [tokens, hidden]. */
  readonly y: Float32Array;
  /** f32 [tokens, experts]. */
  readonly routerLogits: Float32Array;
  /** i32 [tokens, topK], best first. */
  readonly ids: Int32Array;
  /** f32 [tokens, topK]. */
  readonly gates: Float32Array;
}

/**
 * The builder that `Model` uses, on one layer.
 *
 * @example
 * const layer = await MoeLayer.open(checkpoint, 3, { device });
 * const y = await layer.forward(x); // x, y: f32 [tokens, hidden]
 */
export class MoeLayer {
  readonly spec: MoeSpec;
  readonly device: Device;
  readonly #weights: MoeWeights;
  readonly #loader: WeightLoader;
  readonly #programs = new Map<string, Program>();
  #disposed = false;

  private constructor(loader: WeightLoader, weights: MoeWeights) {
    this.spec = weights.spec;
    this.device = loader.device;
    this.#loader = loader;
    this.#weights = weights;
  }

  /**
   * Loads the block of layer `index`; the checkpoint need not hold more of the model and may be closed afterwards. Throws
   * INVALID_ARGUMENT (no such layer, or a dense one), CONFIG_INVALID, CONFIG_UNSUPPORTED, CHECKPOINT_TENSOR_MISSING, SHAPE_MISMATCH,
   * DTYPE_MISMATCH, OUT_OF_MEMORY; an abort rejects with `signal.reason`.
   */
  static async open(checkpoint: Checkpoint, index: number, options: MoeLayerOptions): Promise<MoeLayer> {
    const { device, weights, signal } = requireObject(options);
    requireDevice(device);
    if (!(checkpoint instanceof Checkpoint))
      throw invalid('checkpoint', 'a Checkpoint of Checkpoint.open()', checkpoint);
    requireSignal(signal);
    const plan = weightPlan(weights);
    const family = familyOf(checkpoint.config);
    const { layers } = family.config(checkpoint.config);
    const block = Number.isInteger(index) ? layers[index]?.block : undefined;
    if (block?.kind !== 'moe') {
      const received = block ? `${index}, a dense layer` : `${show(index)} of ${layers.length} layers`;
      throw new MoeError('INVALID_ARGUMENT', { argument: 'index', expected: 'the index of an MoE layer', received });
    }
    const names = family.names.layer(index).moe;
    requireTensors(checkpoint, moeNeeds(block.moe, names), compressedSection(checkpoint.config)?.weights);
    const loader = openLoader(device, checkpoint, { signal });
    try {
      return new MoeLayer(loader, await loadMoe(loader, block.moe, names, plan.experts));
    } catch (error) {
      loader.dispose();
      throw error;
    }
  }

  /** Held on the device by the weights. */
  get bytes(): number {
    return this.#loader.bytes;
  }

  /**
   * y [tokens, hidden] of x [tokens, hidden], both f32; a host array gives a host array, a tensor a tensor that the caller owns.
   * Throws SHAPE_MISMATCH, DTYPE_MISMATCH, DISPOSED, OUT_OF_MEMORY; an abort rejects with `signal.reason`.
   */
  async forward(x: Float32Array, options?: { signal?: AbortSignal | undefined }): Promise<Float32Array>;
  async forward(x: Tensor, options?: { signal?: AbortSignal | undefined }): Promise<Tensor>;
  async forward(
    x: Float32Array | Tensor,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<Float32Array | Tensor> {
    const { signal } = requireObject(options);
    const program = this.#program(this.#tokensOf(x), false);
    if (x instanceof Tensor) return (await program.run({ x }, { signal })).y as Tensor;
    const y = new Float32Array(x.length);
    await program.run({ x }, { signal, into: { y } });
    return y;
  }

  /** As {@link MoeLayer.forward} on f32 [tokens, hidden], with the router's logits, choices and gates. Throws as that. */
  async trace(x: Float32Array): Promise<MoeTrace> {
    const tokens = this.#tokensOf(x);
    const { experts, topK } = this.spec.router;
    const trace = {
      y: new Float32Array(x.length),
      routerLogits: new Float32Array(tokens * experts),
      ids: new Int32Array(tokens * topK),
      gates: new Float32Array(tokens * topK),
    };
    await this.#program(tokens, true).run({ x }, { into: trace });
    return trace;
  }

  /** Gives the memory back, now or after the last run. A second call does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const program of this.#programs.values()) program.dispose();
    this.#loader.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  #tokensOf(x: Float32Array | Tensor): number {
    const { hidden } = this.spec;
    if (!(x instanceof Tensor)) toHost(x, 'f32', 'x');
    const shape = x instanceof Tensor ? x.shape : [x.length / hidden, hidden];
    const [tokens = 0, width] = shape;
    if (shape.length === 2 && width === hidden && Number.isInteger(tokens)) return tokens;
    throw new MoeError('SHAPE_MISMATCH', {
      argument: 'x',
      expected: `[tokens, ${hidden}]`,
      received: x instanceof Tensor ? `[${shape.join(', ')}]` : `${x.length} elements`,
    });
  }

  #program(tokens: number, traced: boolean): Program {
    if (this.#disposed) {
      throw new MoeError('DISPOSED', { argument: 'layer', expected: 'an open layer', received: 'a disposed one' });
    }
    const bucket = buckets.find((size) => tokens <= size) ?? 2 ** Math.ceil(Math.log2(tokens));
    const key = `${bucket}:${traced}`;
    const program = this.#programs.get(key) ?? this.#compile(bucket, traced);
    this.#programs.set(key, program);
    return program;
  }

  #compile(bucket: number, traced: boolean): Program {
    const graph = new Graph(this.device);
    const { y, values } = buildMoe(graph, graph.input('x', 'f32', ['tokens', this.spec.hidden]), this.#weights);
    graph.output('y', y);
    if (traced) {
      const { ids, gates } = values.routing;
      graph.output('routerLogits', values.routerLogits).output('ids', ids).output('gates', gates);
    }
    return graph.compile({ tokens: bucket });
  }
}
