/** The programs of a model: one for each kind and size of run, compiled when first needed; all share weights and cache. */
import type { Device } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import { Graph } from '../graph/graph.ts';
import type { Program } from '../graph/program.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { batchInputs, type Chunk, tokensOf } from './batch.ts';
import { buildDecoder, buildHead, type DecoderWeights, declareInputs, type Tap } from './decoder.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { type CacheDtype, type KvCache, pagesFor } from './kv-cache.ts';

/** Tokens at most in one run, smallest first. */
export const buckets = [1, 8, 64, 512] as const;
export const maximumTokens = 512;
/** Rows of logits at most in a run of kind 'rows'. */
const maximumRows = 8;

/** logits: of every token; rows: of chosen tokens; score: log-probabilities of given ids, the logits stay on the device. */
type Kind = 'logits' | 'rows' | 'score';

export interface RunContext {
  readonly cache: KvCache;
  readonly signal?: AbortSignal | undefined;
}

export class Runner {
  readonly device: Device;
  readonly config: DecoderConfig;
  /** Of the KV caches that runs bind. */
  readonly cacheDtype: CacheDtype;
  readonly #weights: DecoderWeights;
  readonly #programs = new Map<string, Program>();
  readonly #running = new Set<Promise<unknown>>();
  #disposed = false;

  constructor(device: Device, config: DecoderConfig, weights: DecoderWeights, cacheDtype: CacheDtype) {
    this.device = device;
    this.config = config;
    this.cacheDtype = cacheDtype;
    this.#weights = weights;
  }

  /** Planned by the programs compiled so far, each for itself. */
  get arenaBytes(): readonly number[] {
    return [...this.#programs.values()].map((program) => program.arenaBytes);
  }

  /** Logits of every token of the chunks, f32 [tokens, vocabulary], into `logits`. */
  async logits(chunks: readonly Chunk[], logits: Float32Array, context: RunContext): Promise<void> {
    await this.#run(this.#program('logits', tokensOf(chunks)), chunks, {}, { logits }, context);
  }

  /** Logits of the tokens `rows` (indices into the run; at most 8, or none), f32 [rows, vocabulary], into `logits`. */
  async rows(chunks: readonly Chunk[], rows: Int32Array, logits: Float32Array, context: RunContext): Promise<void> {
    await this.#run(this.#program('rows', tokensOf(chunks)), chunks, { rows }, { logits }, context);
  }

  /** Log-probability, in nats, of `targets` i32 [tokens] (−1: 0), each given its token, f32 [tokens], into `result`. */
  async score(chunks: readonly Chunk[], targets: Int32Array, result: Float32Array, context: RunContext): Promise<void> {
    await this.#run(this.#program('score', tokensOf(chunks)), chunks, { targets }, { result }, context);
  }

  /** A program of the first `layers` layers without the head, for taps. The caller runs it by {@link observe} and disposes it. */
  compileTap(tap: Tap, layers: number): Program {
    const graph = new Graph(this.device);
    buildDecoder(graph, this.config, this.#weights, declareInputs(graph, this.cacheDtype), { tap, layers });
    return graph.compile(this.#maximumSizes(maximumTokens));
  }

  /** Runs a program of {@link compileTap}; `states` are those that the tap declared. Returns its outputs. */
  async observe(
    program: Program,
    chunks: readonly Chunk[],
    states: Readonly<Record<string, Tensor>>,
    context: RunContext & { layers: number },
  ): Promise<Record<string, Tensor>> {
    return this.#run(program, chunks, states, {}, context);
  }

  /** Ends the programs; resolves when no run is under way. Later runs throw DISPOSED. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    await Promise.allSettled(this.#running);
    for (const program of this.#programs.values()) program.dispose();
    this.#programs.clear();
  }

  async #run<I extends Record<string, Float32Array>>(
    program: Program,
    chunks: readonly Chunk[],
    extra: Readonly<Record<string, Int32Array | Tensor>>,
    into: I,
    context: RunContext & { layers?: number },
  ): Promise<Record<string, Tensor>> {
    const { cache, signal, layers = this.config.layers.length } = context;
    this.#requireLive();
    for (const { sequence, ids } of chunks) await cache.reserve(sequence, sequence.length + ids.length);
    const inputs = { ...batchInputs(chunks), ...cacheStates(cache, layers), ...extra };
    const run = program.run(inputs, { into, signal });
    this.#running.add(run);
    try {
      const outputs = await run;
      for (const { sequence, ids } of chunks) sequence.length += ids.length;
      return outputs as Record<string, Tensor>;
    } finally {
      this.#running.delete(run);
    }
  }

  #requireLive(): void {
    if (!this.#disposed) return;
    throw new MoeError('DISPOSED', { argument: 'model', expected: 'an open model', received: 'a disposed one' });
  }

  #program(kind: Kind, tokens: number): Program {
    this.#requireLive();
    const bucket = buckets.find((size) => tokens <= size) ?? maximumTokens;
    const key = `${kind}:${bucket}`;
    const program = this.#programs.get(key) ?? this.#compile(kind, bucket);
    this.#programs.set(key, program);
    return program;
  }

  #compile(kind: Kind, bucket: number): Program {
    const graph = new Graph(this.device);
    const x = buildDecoder(graph, this.config, this.#weights, declareInputs(graph, this.cacheDtype));
    const head = (value: typeof x) => buildHead(graph, this.config, this.#weights, value);
    const sizes = this.#maximumSizes(bucket);
    if (kind === 'rows') {
      const rows = graph.input('rows', 'i32', ['rows']);
      return graph.output('logits', head(graph.take(x, rows))).compile({ ...sizes, rows: maximumRows });
    }
    if (kind === 'logits') return graph.output('logits', head(x)).compile(sizes);
    const targets = graph.input('targets', 'i32', ['tokens']);
    const { logProbability } = graph.score(head(x), { ids: targets });
    return graph.output('result', logProbability).compile(sizes);
  }

  #maximumSizes(bucket: number): Record<string, number> {
    // A run has at most `bucket` sequences, and the padded page table is longest for one sequence of full length.
    const longest = pagesFor(this.config.context);
    // Any cache may come to any program: one that grew for a long text, or one of a page for each of many short windows.
    const pages = 2 * longest + maximumTokens;
    return { tokens: bucket, sequences: bucket, table: longest + bucket, pages };
  }
}

function cacheStates(cache: KvCache, layers: number): Record<string, Tensor> {
  const states: Record<string, Tensor> = {};
  for (const [name, tensor] of Object.entries(cache.states)) {
    if (Number(name.slice(name.indexOf('.') + 1)) < layers) states[name] = tensor;
  }
  return states;
}
