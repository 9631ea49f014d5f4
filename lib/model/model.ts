/** A language model from a Hugging Face folder, on a device. */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { invalid, requireCallback, requireObject, requireSignal, show, viewName } from '../arguments.ts';
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { TokenIds, Tokenizer } from '../checkpoint/tokenizer.ts';
import { type Device, requireDevice } from '../device/device.ts';
import { openDevice } from '../device/open.ts';
import { MoeError } from '../errors.ts';
import type { WeightLoader } from '../moe/loader.ts';
import { CachePool } from './cache-pool.ts';
import type { DecoderWeights, Tap } from './decoder.ts';
import type { DecoderConfig } from './decoder-config.ts';
import {
  cutWindows,
  type EvaluateOptions,
  type Evaluation,
  evaluateWindows,
  type Progress,
  packTokens,
  packWindows,
} from './evaluate.ts';
import { familyOf } from './family.ts';
import { type GeneratedToken, type GenerateOptions, generateTokens } from './generate.ts';
import { type CacheDtype, cacheDtypes, pageSize } from './kv-cache.ts';
import { type ObserveOptions, observeWindows } from './observe.ts';
import { maximumTokens, Runner } from './runner.ts';
import { type ContinuationOptions, type ContinuationScore, joinContinuations, scoreContinuations } from './score.ts';
import { type ModelTrace, type TraceOptions, traceModel } from './trace.ts';
import { checkTensors, loadDecoder, type ModelWeights, openLoader, weightPlan } from './weights.ts';

export interface OpenOptions {
  /** A name for `openDevice`, or an open device, which the model does not dispose. Default 'auto'. */
  device?: string | Device | undefined;
  /** Format of the expert matrices. Default: as the folder has them. */
  weights?: ModelWeights | undefined;
  /** Of cached keys and values; what is computed from them is f32 in any case. Default 'f32'. */
  cache?: CacheDtype | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
}

/** Bytes held on the device for a model. */
export interface ModelMemory {
  readonly weights: number;
  /** KV caches, lent and kept for the next call. */
  readonly cache: number;
  /** Inner values of the largest program compiled so far; all programs share one arena. */
  readonly arena: number;
  readonly total: number;
}

interface Parts {
  readonly config: DecoderConfig;
  readonly device: Device;
  readonly ownsDevice: boolean;
  readonly bytes: number;
  readonly loader: WeightLoader;
  readonly runner: Runner;
  readonly weights: DecoderWeights;
  readonly tokenizer: Tokenizer | undefined;
}

/**
 * Calls may run at once: each has a KV cache of its own, and runs are ordered by the device's queue. Results do not depend on
 * what else runs.
 *
 * @example
 * await using model = await Model.open('./Qwen3-30B-A3B', { weights: { format: 'int4', groupSize: 128 } });
 * for await (const { text } of model.generate('interface ', { maxTokens: 64 })) process.stdout.write(text);
 */
export class Model {
  /** The checked content of config.json. */
  readonly config: DecoderConfig;
  readonly device: Device;
  /** Of the safetensors files on disk. */
  readonly bytes: number;
  readonly #parts: Parts;
  readonly #pool: CachePool;
  readonly #eosIds: ReadonlySet<number>;
  #disposed = false;

  private constructor(parts: Parts) {
    this.config = parts.config;
    this.device = parts.device;
    this.bytes = parts.bytes;
    this.#parts = parts;
    this.#pool = new CachePool(parts.device, parts.config, parts.runner.cacheDtype);
    const { eosIds = [] } = parts.tokenizer ?? {};
    this.#eosIds = new Set(eosIds.length > 0 ? eosIds : parts.config.eosIds);
  }

  /**
   * Reads config and tokenizer, checks every tensor, then streams the weights to the device. An abort rejects with `signal.reason`.
   * Throws FILE_UNREADABLE, CHECKPOINT_MALFORMED, CONFIG_INVALID, CONFIG_UNSUPPORTED, CHECKPOINT_TENSOR_MISSING,
   * CHECKPOINT_TENSOR_UNKNOWN, SHAPE_MISMATCH, DTYPE_MISMATCH, TOKENIZER_INVALID, INVALID_ARGUMENT, DEVICE_UNAVAILABLE, OUT_OF_MEMORY.
   */
  static async open(folder: string, options: OpenOptions = {}): Promise<Model> {
    const { device: chosen = 'auto', weights, cache = 'f32', signal, onProgress } = requireObject(options);
    if (typeof chosen !== 'string') requireDevice(chosen);
    requireCallback(onProgress, 'onProgress');
    if (!cacheDtypes.includes(cache)) throw invalid('cache', cacheDtypes.join(', '), cache);
    const plan = weightPlan(weights);
    const checkpoint = await Checkpoint.open(folder, { signal });
    let device: Device | undefined;
    let loader: WeightLoader | undefined;
    try {
      const family = familyOf(checkpoint.config);
      const config = family.config(checkpoint.config);
      checkTensors(checkpoint, config, family.names);
      const tokenizer = await tokenizerOf(checkpoint);
      signal?.throwIfAborted();
      device = typeof chosen === 'string' ? await openDevice(chosen) : chosen;
      const total = [...checkpoint.tensors.values()].reduce((sum, { begin, end }) => sum + end - begin, 0);
      const report = (done: number): void => onProgress?.({ phase: 'load', done, total });
      loader = openLoader(device, checkpoint, {
        signal,
        onBytes: (done) => {
          if (done < total) report(done);
        },
      });
      const decoder = await loadDecoder(loader, config, family.names, plan);
      const runner = new Runner(device, config, decoder, cache);
      report(total);
      const ownsDevice = typeof chosen === 'string';
      const { bytes } = checkpoint;
      return new Model({ config, device, ownsDevice, bytes, loader, runner, weights: decoder, tokenizer });
    } catch (error) {
      loader?.dispose();
      if (typeof chosen === 'string') device?.dispose();
      throw error;
    } finally {
      checkpoint.close();
    }
  }

  get disposed(): boolean {
    return this.#disposed || this.device.disposed;
  }

  /** @internal The programs of the model. Throws DISPOSED. */
  get runner(): Runner {
    this.#requireLive();
    return this.#parts.runner;
  }

  /** Throws TOKENIZER_INVALID where the folder has no tokenizer.json. */
  get tokenizer(): Tokenizer {
    const { tokenizer } = this.#parts;
    if (tokenizer) return tokenizer;
    throw new MoeError('TOKENIZER_INVALID', {
      argument: 'tokenizer.json',
      expected: 'a file in the model folder',
      received: 'none',
    });
  }

  /** Throws DISPOSED. */
  memory(): ModelMemory {
    this.#requireLive();
    const { loader, runner } = this.#parts;
    const [weights, cache, arena] = [loader.bytes, this.#pool.bytes, Math.max(0, ...runner.arenaBytes)];
    return { weights, cache, arena, total: weights + cache + arena };
  }

  /**
   * Logits of every position: f32 [tokens, vocabulary], row t for the token after ids[t]. Throws INVALID_ARGUMENT,
   * CONTEXT_EXCEEDED, DISPOSED, OUT_OF_MEMORY; an abort rejects with `signal.reason`.
   */
  async logits(
    ids: TokenIds,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<{ data: Float32Array; shape: [tokens: number, vocabulary: number] }> {
    this.#requireLive();
    const { signal } = requireObject(options);
    requireSignal(signal);
    const tokens = this.#checkedIds(ids, 'ids');
    this.#requireContext(tokens.length);
    const { vocabulary } = this.config;
    const data = new Float32Array(tokens.length * vocabulary);
    const cache = this.#pool.borrow(tokens.length);
    const sequence = cache.sequence();
    try {
      for (let at = 0; at < tokens.length; at += maximumTokens) {
        const chunk = { sequence, ids: tokens.subarray(at, at + maximumTokens) };
        const rows = data.subarray(at * vocabulary, (at + chunk.ids.length) * vocabulary);
        await this.runner.logits([chunk], rows, { cache, signal });
      }
    } finally {
      cache.release(sequence);
      this.#pool.giveBack(cache);
    }
    return { data, shape: [tokens.length, vocabulary] };
  }

  /**
   * Mean negative log-likelihood in nats. `ids` is cut into consecutive windows of `window` tokens (a last partial one is
   * dropped), each is scored on its own, its first token is not scored. Throws INVALID_ARGUMENT (also where there is no full
   * window), CONTEXT_EXCEEDED, DISPOSED, OUT_OF_MEMORY; an abort rejects with `signal.reason`.
   */
  async evaluate(ids: TokenIds, options: EvaluateOptions = {}): Promise<Evaluation> {
    this.#requireLive();
    const windows = cutWindows(this.#checkedIds(ids, 'ids'), this.config.context, options);
    const packs = packWindows(windows);
    const cache = this.#pool.borrow(packTokens(packs, pageSize));
    try {
      return await evaluateWindows(this.#parts.runner, cache, packs, options);
    } finally {
      this.#pool.giveBack(cache);
    }
  }

  /**
   * Continues a prompt; each token is given as soon as it is chosen. Ends after `maxTokens`, or with an end-of-text id (given as
   * the last one). The iterator rejects with INVALID_ARGUMENT, CONTEXT_EXCEEDED (prompt and `maxTokens` go beyond the context),
   * TOKENIZER_INVALID (a text without a tokenizer), DISPOSED, OUT_OF_MEMORY; an abort rejects with `signal.reason`.
   */
  async *generate(
    prompt: string | TokenIds,
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedToken, void, undefined> {
    this.#requireLive();
    const { runner, tokenizer } = this.#parts;
    const ids = this.#checkedIds(typeof prompt === 'string' ? this.tokenizer.encode(prompt) : prompt, 'prompt');
    const tokens = generateTokens(runner, this.#pool, tokenizer, this.#eosIds, ids, options);
    for await (const token of tokens) {
      yield token;
      this.#requireLive();
    }
  }

  /**
   * How likely each continuation is after the prompt, for multiple-choice tasks; what the continuations have in common runs once.
   * Two texts are encoded together: the tokens in which the encoded prompt and the whole begin alike are the prompt, the rest is
   * scored, so a token that spans the boundary counts to the continuation. With ids on either side, ids are appended to ids.
   * Throws INVALID_ARGUMENT (also where nothing is left of the prompt, or to score), CONTEXT_EXCEEDED, TOKENIZER_INVALID (a text
   * without a tokenizer), DISPOSED, OUT_OF_MEMORY; an abort rejects with `signal.reason`.
   *
   * @example
   * const scores = await model.score('The capital of France is', [' Paris', ' Rome']);
   */
  async score(
    prompt: string | TokenIds,
    continuations: readonly (string | TokenIds)[],
    options: ContinuationOptions = {},
  ): Promise<ContinuationScore[]> {
    this.#requireLive();
    const reader = {
      encode: (text: string, special?: { addSpecialTokens: boolean }) => this.tokenizer.encode(text, special),
      checked: (ids: TokenIds, argument: string) => this.#checkedIds(ids, argument),
    };
    const texts = joinContinuations(reader, this.config.context, prompt, continuations);
    return scoreContinuations(this.runner, this.#pool, texts, options);
  }

  /**
   * Router logits, chosen experts with their gates, and hidden states of every layer over a text of up to the context; see
   * {@link LayerTrace} for the shapes. Throws INVALID_ARGUMENT (also for no tokens), CONTEXT_EXCEEDED, DISPOSED, OUT_OF_MEMORY;
   * an abort rejects with `signal.reason`.
   */
  async trace(ids: TokenIds, options: TraceOptions = {}): Promise<ModelTrace> {
    this.#requireLive();
    const checked = this.#checkedIds(ids, 'ids');
    this.#requireContext(checked.length);
    return traceModel(this.runner, this.#pool, this.#parts.weights, checked, options);
  }

  /**
   * For calibration: runs each window, on its own and from its first token, through the layers with `tap` called for every MoE
   * layer while the graph is assembled; statistics go to states, traces to outputs. Throws as {@link Model.evaluate}.
   *
   * @internal
   */
  async observe(windows: readonly TokenIds[], tap: Tap, options: ObserveOptions = {}): Promise<void> {
    this.#requireLive();
    const checked = windows.map((ids, index) => this.#checkedIds(ids, `windows[${index}]`));
    for (const { length } of checked) this.#requireContext(length);
    await observeWindows(this.#parts.runner, this.#pool, checked, tap, options);
  }

  /** Resolves when what was running is done and all memory is given back. Later calls throw DISPOSED. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    const { runner, loader, ownsDevice, device } = this.#parts;
    await runner.dispose();
    this.#pool.dispose();
    loader.dispose();
    if (ownsDevice) device.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #requireLive(): void {
    if (!this.disposed) return;
    throw new MoeError('DISPOSED', { argument: 'model', expected: 'an open model', received: 'a disposed one' });
  }

  #requireContext(tokens: number): void {
    const { context } = this.config;
    if (tokens <= context) return;
    throw new MoeError('CONTEXT_EXCEEDED', {
      argument: 'ids',
      expected: `at most ${context} tokens`,
      received: String(tokens),
    });
  }

  #checkedIds(ids: TokenIds, argument: string): Int32Array {
    if (viewName(ids) !== 'Int32Array' && !Array.isArray(ids)) {
      throw invalid(argument, 'an Int32Array or an array of ids', ids);
    }
    const { vocabulary } = this.config;
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i] as number;
      if (Number.isInteger(id) && id >= 0 && id < vocabulary) continue;
      throw new MoeError('INVALID_ARGUMENT', {
        argument: `${argument}[${i}]`,
        expected: `an id in 0 … ${vocabulary - 1}`,
        received: show(id),
      });
    }
    // A copy: the caller may change the array while the call runs.
    return Int32Array.from(ids);
  }
}

async function tokenizerOf(checkpoint: Checkpoint): Promise<Tokenizer | undefined> {
  const present = await access(join(checkpoint.folder, 'tokenizer.json')).then(
    () => true,
    () => false,
  );
  return present ? checkpoint.tokenizer() : undefined;
}
