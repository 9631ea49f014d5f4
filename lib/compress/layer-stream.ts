/** Runs a model over calibration windows one layer at a time: only the hidden states of all windows and one layer's weights are in memory. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { Device } from '../device/device.ts';
import { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import { buildAttention, declarePlaces, type LayerWeights } from '../model/decoder.ts';
import type { DecoderConfig, Family, LayerConfig } from '../model/decoder-config.ts';
import { pageSize } from '../model/kv-cache.ts';
import { ropeFrequencies } from '../model/rope.ts';
import { loadLayer } from '../model/weights.ts';
import { buildMlp, buildMoe, type MoeValues, type MoeWeights } from '../moe/block.ts';
import { WeightLoader } from '../moe/loader.ts';
import { Tensor } from '../tensor/tensor.ts';

/** Several windows that run at once, as sequences of one batch. */
interface Batch {
  readonly ids: Int32Array;
  readonly places: Readonly<Record<'positions' | 'sequence' | 'lengths' | 'pages', Int32Array>>;
  /** f32 [tokens, hidden]: what the next layer gets. */
  hidden: Float32Array;
  /** f32 [tokens, hidden]: after attention, where a layer was halted there. */
  middle: Float32Array;
}

const batchTokens = 512;

/** Adds statistics to the graph of an MoE layer; `weights` are the layer's own. */
export type Observer = (graph: Graph, values: MoeValues, weights: MoeWeights) => void;

export class LayerStream {
  readonly config: DecoderConfig;
  readonly #device: Device;
  readonly #checkpoint: Checkpoint;
  readonly #family: Family;
  readonly #batches: Batch[];
  readonly #signal: AbortSignal | undefined;

  constructor(
    device: Device,
    checkpoint: Checkpoint,
    family: Family,
    windows: readonly Int32Array[],
    signal?: AbortSignal,
  ) {
    this.#device = device;
    this.#checkpoint = checkpoint;
    this.#family = family;
    this.config = family.config(checkpoint.config);
    this.#signal = signal;
    this.#batches = intoBatches(windows);
  }

  /** Starts at the first layer: the windows' embeddings. */
  async embed(): Promise<void> {
    const table = await this.#checkpoint.readF32(`${this.#family.names.embedding}.weight`);
    const { hidden } = this.config;
    for (const batch of this.#batches) {
      batch.hidden = new Float32Array(batch.ids.length * hidden);
      batch.ids.forEach((id, token) => {
        batch.hidden.set(table.subarray(id * hidden, (id + 1) * hidden), token * hidden);
      });
    }
  }

  /**
   * Runs one layer over all windows; its output is what the next call gets.
   *
   * @param observe taps of an MoE layer; `states` are the f64 states that it declared, by name
   */
  async advance(index: number, observe?: Observer, states: Readonly<Record<string, Tensor>> = {}): Promise<void> {
    await this.#withLayer(index, async (layer, frequencies) => {
      const { graph, middle, input } = this.#toMiddle(index, layer, frequencies);
      if (layer.block.kind === 'dense') {
        graph.output('result', buildMlp(graph, input, layer.block.mlp, this.config.kind, middle));
      } else {
        const { y, values } = buildMoe(graph, input, layer.block.moe, middle);
        observe?.(graph, values, layer.block.moe);
        graph.output('result', y);
      }
      await this.#run(graph, 'hidden', states, index);
    });
  }

  /** Runs an MoE layer's attention, and its experts for `observe` alone; {@link finish} takes it from there. */
  async halt(index: number, observe: Observer, states: Readonly<Record<string, Tensor>>): Promise<void> {
    await this.#withLayer(index, async (layer, frequencies) => {
      const { graph, middle, input } = this.#toMiddle(index, layer, frequencies);
      if (layer.block.kind === 'moe') observe(graph, buildMoe(graph, input, layer.block.moe).values, layer.block.moe);
      graph.output('result', middle);
      await this.#run(graph, 'middle', states, index);
    });
  }

  /** The rest of a halted layer with other experts in it. */
  async finish(index: number, replace: (weights: MoeWeights) => MoeWeights): Promise<void> {
    await this.#withLayer(index, async (layer) => {
      if (layer.block.kind === 'dense') return;
      const graph = new Graph(this.#device);
      const middle = graph.input('middle', 'f32', ['tokens', this.config.hidden]);
      const input = graph.norm(middle, layer.blockNorm, { epsilon: this.config.epsilon });
      graph.output('result', buildMoe(graph, input, replace(layer.block.moe), middle).y);
      await this.#run(graph, 'hidden', {});
    });
  }

  #toMiddle(index: number, layer: LayerWeights, frequencies: Tensor): { graph: Graph; middle: Value; input: Value } {
    const { config } = this;
    const graph = new Graph(this.#device);
    const hidden = graph.input('hidden', 'f32', ['tokens', config.hidden]);
    const norm = { epsilon: config.epsilon };
    const places = declarePlaces(graph);
    const middle = buildAttention(
      graph,
      config,
      layer,
      frequencies,
      places,
      index,
      graph.norm(hidden, layer.inputNorm, norm),
      hidden,
    );
    return { graph, middle, input: graph.norm(middle, layer.blockNorm, norm) };
  }

  async #withLayer(index: number, body: (layer: LayerWeights, frequencies: Tensor) => Promise<void>): Promise<void> {
    const loader = new WeightLoader(this.#device, this.#checkpoint, { signal: this.#signal });
    try {
      const asStored = { experts: undefined, attention: undefined };
      const names = this.#family.names.layer(index);
      const layer = await loadLayer(loader, this.config, this.config.layers[index] as LayerConfig, names, asStored);
      const { rope, attention } = this.config;
      await body(layer, await loader.constant(ropeFrequencies(rope, attention.headDim)));
    } finally {
      loader.dispose();
    }
  }

  /** @param attention the layer whose attention is in the graph; absent: the graph starts after it */
  async #run(
    graph: Graph,
    becomes: 'hidden' | 'middle',
    states: Readonly<Record<string, Tensor>>,
    attention?: number,
  ): Promise<void> {
    const { kvHeads, headDim } = this.config.attention;
    const longest = (count: (batch: Batch) => number): number => Math.max(...this.#batches.map(count));
    const [tokens, pages] = [longest((batch) => batch.ids.length), longest((batch) => batch.places.pages.length)];
    const sequences = longest((batch) => batch.places.lengths.length);
    const program = graph.compile(attention === undefined ? { tokens } : { tokens, sequences, table: pages, pages });
    const caches: Record<string, Tensor> = {};
    if (attention !== undefined) {
      const shape = [pages, pageSize, kvHeads * headDim];
      for (const name of ['keys', 'values']) caches[`${name}.${attention}`] = Tensor.empty(this.#device, 'f32', shape);
    }
    try {
      for (const batch of this.#batches) {
        const inputs =
          attention === undefined
            ? { middle: batch.middle }
            : { hidden: batch.hidden, ...batch.places, ...caches, ...states };
        const result = new Float32Array(batch.ids.length * this.config.hidden);
        await program.run(inputs, { into: { result }, signal: this.#signal });
        batch[becomes] = result;
      }
    } finally {
      program.dispose();
      for (const cache of Object.values(caches)) cache.dispose();
    }
  }
}

function intoBatches(windows: readonly Int32Array[]): Batch[] {
  const groups: Int32Array[][] = [];
  let tokens = Number.POSITIVE_INFINITY;
  for (const window of windows) {
    if (tokens + window.length > batchTokens) {
      groups.push([]);
      tokens = 0;
    }
    (groups.at(-1) as Int32Array[]).push(window);
    tokens += window.length;
  }
  return groups.map((group) => {
    const each = <T>(value: (window: Int32Array, sequence: number, at: number) => T): Int32Array =>
      Int32Array.from(
        group.flatMap((window, sequence) => Array.from(window, (_, at) => value(window, sequence, at))) as number[],
      );
    const pagesEach = Math.ceil(Math.max(...group.map((window) => window.length)) / pageSize);
    return {
      ids: each((window, _, at) => window[at]),
      places: {
        positions: each((_, __, at) => at),
        sequence: each((_, sequence) => sequence),
        lengths: Int32Array.from(group, (window) => window.length),
        pages: Int32Array.from({ length: group.length * pagesEach }, (_, page) => page),
      },
      hidden: new Float32Array(),
      middle: new Float32Array(),
    };
  });
}
