/**
 * Runs a model over calibration windows one layer at a time: only the hidden states of all windows and one layer's weights are in
 * memory. A layer is entered (attention), observed any number of times, and left with whatever experts are then in it.
 */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { Device } from '../../device/device.ts';
import { Graph } from '../../graph/graph.ts';
import type { Value } from '../../graph/value.ts';
import { buildAttention, declarePlaces, type LayerWeights } from '../../model/decoder.ts';
import type { DecoderConfig, Family, LayerConfig } from '../../model/decoder-config.ts';
import { pageSize } from '../../model/kv-cache.ts';
import { ropeFrequencies } from '../../model/rope.ts';
import { loadLayer } from '../../model/weights.ts';
import { buildMlp, buildMoe, type MoeValues, type MoeWeights } from '../../moe/block.ts';
import { WeightLoader } from '../../moe/loader.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { type Batch, intoBatches } from './batches.ts';
import { type Arrays, type Block, packedBlocks, TokenSelection, wholeBlocks } from './blocks.ts';
import { branchLosses } from './losses.ts';

/** The values of an MoE block as the original experts give them, and its weights. */
export interface Observed {
  readonly graph: Graph;
  readonly values: MoeValues;
  readonly weights: MoeWeights;
  /** The block's input under another norm's weights, f32 [hidden]. */
  readonly normed: (weights: Tensor) => Value;
  /**
   * f32 [tokens, hidden]: what the block would have to give for its layer to end where the original model's does, whatever the layers
   * before have changed; absent where the original does not run along.
   */
  readonly wanted: Value | undefined;
  /** f32 [tokens, hidden]: what the block gets in the original model; absent as `wanted`. */
  readonly originalInput: Value | undefined;
  /** f32 [tokens, hidden]: what the observer gave along. */
  readonly inputs: Readonly<Record<string, Value>>;
}

export interface ObserveOptions {
  /** Gets the outputs that the taps declare, batch by batch. */
  readonly each?: (outputs: Readonly<Record<string, Float32Array | Int32Array>>, tokens: number) => void;
  /** f32 [tokens, hidden] of each batch, by name. */
  readonly inputs?: Arrays | undefined;
  /** f32 [tokens, hidden] of each batch, by the name of an output, whose rows take their places. */
  readonly into?: Arrays;
  /** Only these tokens; `each` gets them packed. */
  readonly tokens?: TokenSelection | undefined;
  /** Leaves the layer with its original experts in the same pass. There may be no branches. */
  readonly leave?: boolean;
  /** Only this one of the batches, counted round. */
  readonly batch?: number | undefined;
}

/** Sums of all windows, by the names of the graph's states. */
export type Sums = Readonly<Record<string, Float64Array>>;

interface Entered {
  readonly index: number;
  readonly layer: LayerWeights;
  readonly loader: WeightLoader;
}

export class LayerStream {
  readonly config: DecoderConfig;
  /** Tokens of all windows. */
  readonly tokens: number;
  readonly device: Device;
  readonly #checkpoint: Checkpoint;
  readonly #family: Family;
  readonly #batches: Batch[];
  readonly #signal: AbortSignal | undefined;
  #entered: Entered | undefined;

  constructor(
    device: Device,
    checkpoint: Checkpoint,
    family: Family,
    windows: readonly Int32Array[],
    signal?: AbortSignal,
  ) {
    this.device = device;
    this.#checkpoint = checkpoint;
    this.#family = family;
    this.config = family.config(checkpoint.config);
    this.#signal = signal;
    this.#batches = intoBatches(windows);
    this.tokens = windows.reduce((sum, { length }) => sum + length, 0);
  }

  /**
   * Starts at the first layer: the windows' embeddings.
   *
   * @param o.withOriginal lets the original model run along, for {@link Observed.wanted}
   */
  async embed(o: { withOriginal?: boolean } = {}): Promise<void> {
    const table = await this.#checkpoint.readF32(`${this.#family.names.embedding}.weight`);
    const { hidden } = this.config;
    for (const batch of this.#batches) {
      batch.hidden = new Float32Array(batch.ids.length * hidden);
      batch.ids.forEach((id, token) => {
        batch.hidden.set(table.subarray(id * hidden, (id + 1) * hidden), token * hidden);
      });
      if (o.withOriginal) batch.original = { ...batch };
    }
  }

  /** Loads a layer as the source has it and runs its attention. */
  async enter(index: number): Promise<void> {
    const loader = new WeightLoader(this.device, this.#checkpoint, { signal: this.#signal });
    try {
      const asStored = { experts: undefined, attention: undefined };
      const names = this.#family.names.layer(index);
      const { config } = this;
      const layer = await loadLayer(loader, config, config.layers[index] as LayerConfig, names, asStored);
      const frequencies = await loader.constant(ropeFrequencies(config.rope, config.attention.headDim));
      const graph = new Graph(this.device);
      const hidden = graph.input('hidden', 'f32', ['tokens', config.hidden]);
      const places = declarePlaces(graph);
      const input = graph.norm(hidden, layer.inputNorm, { epsilon: config.epsilon });
      graph.output('result', buildAttention(graph, config, layer, frequencies, places, index, input, hidden));
      await this.#run(graph, [...this.#batches, ...this.#originals()].map(attended), {
        attention: index,
        take: ({ batch }, { result }) => {
          batch.middle = result as Float32Array;
        },
      });
      this.#entered = { index, layer, loader };
      if (this.#originals().length > 0) await this.#runBlock(this.#entered, this.#originals(), (weights) => weights);
    } catch (error) {
      loader.dispose();
      throw error;
    }
  }

  /**
   * Runs the MoE block of the entered layer with its original experts over all windows.
   *
   * @param shapes f64 states by name, zero at first
   * @param build taps; they may declare outputs
   */
  async observe<S extends string>(
    shapes: Readonly<Record<S, readonly number[]>>,
    build: (observed: Observed, states: Readonly<Record<S, Value>>) => void,
    { each, inputs = {}, into = {}, leave = false, batch, tokens }: ObserveOptions = {},
  ): Promise<Readonly<Record<S, Float64Array>>> {
    const { layer } = this.#layer();
    if (layer.block.kind !== 'moe') throw new TypeError('a dense block has no experts to observe');
    const graph = new Graph(this.device);
    const { middle, input } = this.#blockInput(graph, layer);
    const { y, values } = buildMoe(graph, input, layer.block.moe, middle);
    const original = this.#originals().length > 0 ? this.#originalValues(graph, layer, middle) : undefined;
    const names = Object.keys(shapes) as S[];
    const states = Object.fromEntries(names.map((name) => [name, graph.state(name, 'f64', shapes[name])]));
    const given = Object.keys(inputs).map((name) => [name, graph.input(name, 'f32', ['tokens', this.config.hidden])]);
    const weights = layer.block.moe;
    const normed = (norm: Tensor): Value => graph.norm(middle, norm, { epsilon: this.config.epsilon });
    const observed = { graph, values, weights, normed, wanted: original?.wanted, originalInput: original?.input };
    build({ ...observed, inputs: Object.fromEntries(given) }, states as Record<S, Value>);
    if (leave) graph.output('result', y);
    else if (!each && Object.keys(into).length === 0) graph.output('offsets', values.routing.offsets);
    const tensors: Record<string, Tensor> = {};
    try {
      for (const name of names) tensors[name] = await Tensor.zeros(this.device, 'f64', shapes[name]);
      const all = this.#batches.filter(({ branch }) => branch === 0);
      const given = { inputs, into };
      const blocks = tokens ? packedBlocks(all, tokens, given, this.config.hidden) : wholeBlocks(all, given, batch);
      await this.#run(graph, blocks, {
        states: tensors,
        take: ({ tokens: count, put, batch: from }, outputs) => {
          each?.(outputs, count);
          for (const name of Object.keys(into)) put(name, outputs[name] as Float32Array);
          if (leave && from) from.hidden = outputs.result as Float32Array;
        },
      });
      const sums: Partial<Record<S, Float64Array>> = {};
      for (const name of names) {
        using tensor = tensors[name] as Tensor;
        sums[name] = (await tensor.read()) as Float64Array;
      }
      if (leave) this.dispose();
      return sums as Record<S, Float64Array>;
    } finally {
      for (const tensor of Object.values(tensors)) tensor.dispose();
    }
  }

  /**
   * Runs the rest of the entered layer; its output is what the next one gets.
   *
   * @param replace other experts, or another router, for an MoE block; absent: the original ones
   * @param norm other weights of the norm before it
   */
  async leave(replace: (weights: MoeWeights) => MoeWeights = (weights) => weights, norm?: Tensor): Promise<void> {
    const entered = this.#layer();
    const { layer } = entered;
    try {
      const own = norm ? { ...entered, layer: { ...layer, blockNorm: norm } } : entered;
      await this.#runBlock(own, this.#batches, replace);
    } finally {
      entered.loader.dispose();
      this.#entered = undefined;
    }
  }

  /** f32 [hidden]: the weights of the norm before the entered layer's block. */
  norm(): Promise<Float32Array> {
    const { blockNorm } = this.#family.names.layer(this.#layer().index);
    return this.#checkpoint.readF32(`${blockNorm}.weight`);
  }

  /** Other rows, f32 [experts, hidden], for the router of the entered layer, while it is observed. */
  async replaceRouter(rows: Float32Array): Promise<void> {
    const entered = this.#layer();
    const { block } = entered.layer;
    if (block.kind !== 'moe') throw new TypeError('a dense block has no router to replace');
    const router = await entered.loader.matrix(rows, block.moe.spec.router.experts, block.moe.spec.hidden);
    this.#entered = { ...entered, layer: { ...entered.layer, block: { ...block, moe: { ...block.moe, router } } } };
  }

  /** Gives the entered layer's weights back: where nothing of it is to be run any more. */
  dispose(): void {
    this.#entered?.loader.dispose();
    this.#entered = undefined;
  }

  /**
   * Copies the windows as they are now into a branch of their own, which goes along from here: what happens to it shows in
   * {@link losses}. Observers see the first copy only.
   *
   * @param change gives the branch's hidden states from those before (`middle`) and after the MoE block, each f32 [tokens, hidden]
   */
  fork(branch: number, change: (middle: Float32Array, hidden: Float32Array) => Float32Array): void {
    const first = this.#batches.filter((batch) => batch.branch === 0);
    for (const batch of first) {
      this.#batches.push({ ...batch, branch, hidden: change(batch.middle, batch.hidden), middle: new Float32Array() });
    }
  }

  /** The hidden states of the first copy after the layer that was left: before and after its block, batch by batch. */
  *states(): Generator<{ middle: Float32Array; hidden: Float32Array }> {
    for (const { branch, middle, hidden } of this.#batches) if (branch === 0) yield { middle, hidden };
  }

  /** Mean negative log-likelihood of each branch, nats a token, once all layers were left. The first token of a window is not scored. */
  async losses(): Promise<Map<number, number>> {
    const loader = new WeightLoader(this.device, this.#checkpoint, { signal: this.#signal });
    try {
      return await branchLosses(loader, this.config, this.#family.names, this.#batches, this.#signal);
    } finally {
      loader.dispose();
    }
  }

  #originals(): Batch[] {
    return this.#batches.flatMap(({ original }) => original ?? []);
  }

  async #runBlock(
    { layer }: Entered,
    batches: readonly Batch[],
    replace: (weights: MoeWeights) => MoeWeights,
  ): Promise<void> {
    const graph = new Graph(this.device);
    const { middle, input } = this.#blockInput(graph, layer);
    const { block } = layer;
    const result =
      block.kind === 'dense'
        ? buildMlp(graph, input, block.mlp, this.config.kind, middle)
        : buildMoe(graph, input, replace(block.moe), middle).y;
    graph.output('result', result);
    await this.#run(
      graph,
      batches.map((batch) => ({ batch, inputs: { middle: batch.middle } })),
      {
        take: ({ batch }, { result }) => {
          batch.hidden = result as Float32Array;
        },
      },
    );
  }

  #layer(): Entered {
    if (this.#entered) return this.#entered;
    throw new TypeError('no layer was entered');
  }

  #originalValues(graph: Graph, layer: LayerWeights, middle: Value): { wanted: Value; input: Value } {
    const shape = ['tokens', this.config.hidden];
    const wanted = graph.add(
      graph.input('original', 'f32', shape),
      graph.map('scale', middle, undefined, { alpha: -1 }),
    );
    const before = graph.input('originalMiddle', 'f32', shape);
    return { wanted, input: graph.norm(before, layer.blockNorm, { epsilon: this.config.epsilon }) };
  }

  #blockInput(graph: Graph, layer: LayerWeights): { middle: Value; input: Value } {
    const middle = graph.input('middle', 'f32', ['tokens', this.config.hidden]);
    return { middle, input: graph.norm(middle, layer.blockNorm, { epsilon: this.config.epsilon }) };
  }

  /** f32 [tokens, hidden] of each batch of the first copy. */
  zeros(): Float32Array[] {
    const first = this.#batches.filter(({ branch }) => branch === 0);
    return first.map(({ ids }) => new Float32Array(ids.length * this.config.hidden));
  }

  /** Some of the tokens of the first copy, [batches], rising. */
  select(tokens: readonly Int32Array[]): TokenSelection {
    return new TokenSelection(tokens, Math.max(...this.#batches.map(({ ids }) => ids.length)));
  }

  /** Runs a graph on each of `blocks`, whose outputs `take` gets. */
  async #run<B extends Pick<Block, 'inputs'>>(
    graph: Graph,
    blocks: Iterable<B>,
    { attention, states, take }: RunOptions<B>,
  ): Promise<void> {
    const { kvHeads, headDim } = this.config.attention;
    const longest = (count: (batch: Batch) => number): number => Math.max(...this.#batches.map(count));
    const [tokens, pages] = [longest((batch) => batch.ids.length), longest((batch) => batch.places.pages.length)];
    const sequences = longest((batch) => batch.places.lengths.length);
    const program = graph.compile(attention === undefined ? { tokens } : { tokens, sequences, table: pages, pages });
    const caches: Record<string, Tensor> = {};
    if (attention !== undefined) {
      const shape = [pages, pageSize, kvHeads * headDim];
      for (const name of ['keys', 'values']) caches[`${name}.${attention}`] = Tensor.empty(this.device, 'f32', shape);
    }
    try {
      for (const block of blocks) {
        const outputs = await program.run({ ...block.inputs, ...states, ...caches }, { signal: this.#signal });
        const arrays: Record<string, Float32Array | Int32Array> = {};
        for (const [name, tensor] of Object.entries<Tensor>(outputs)) {
          arrays[name] = (await tensor.read()) as Float32Array | Int32Array;
          tensor.dispose();
        }
        take(block, arrays);
      }
    } finally {
      program.dispose();
      for (const cache of Object.values(caches)) cache.dispose();
    }
  }
}

interface RunOptions<B> {
  /** The layer whose caches the graph fills. */
  readonly attention?: number;
  readonly states?: Readonly<Record<string, Tensor>>;
  readonly take: (block: B, outputs: Readonly<Record<string, Float32Array | Int32Array>>) => void;
}

/** A batch as the attention gets it. */
function attended(batch: Batch): { batch: Batch; inputs: Block['inputs'] } {
  return { batch, inputs: { hidden: batch.hidden, ...batch.places } };
}
