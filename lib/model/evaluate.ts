/** Mean negative log-likelihood of a text, window by window. */
import { requireCallback, requireInteger, requireObject, requireSignal } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import type { Chunk } from './batch.ts';
import type { KvCache } from './kv-cache.ts';
import { maximumTokens, type Runner } from './runner.ts';

export interface Progress {
  readonly phase: 'load' | 'evaluate' | 'observe';
  readonly done: number;
  /** In the unit of `done`: bytes of the files (load), windows (evaluate, observe). */
  readonly total: number;
}

export interface EvaluateOptions {
  /** Tokens of a window, 2 or more. Default 256. */
  window?: number | undefined;
  /** Only the first so many windows. Default: all. */
  windows?: number | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
}

export interface Evaluation {
  /** Mean over the scored tokens, in nats. */
  readonly nll: number;
  /** Scored tokens: (window − 1) for each window. */
  readonly tokens: number;
}

/** Consecutive windows of `window` tokens; a last partial one is dropped. Throws INVALID_ARGUMENT, CONTEXT_EXCEEDED. */
export function cutWindows(ids: Int32Array, context: number, options: EvaluateOptions): Int32Array[] {
  const { window = 256, windows = Number.MAX_SAFE_INTEGER, signal, onProgress } = requireObject(options);
  requireInteger(window, 'window', 2);
  requireInteger(windows, 'windows');
  requireSignal(signal);
  requireCallback(onProgress, 'onProgress');
  if (window > context) {
    throw new MoeError('CONTEXT_EXCEEDED', {
      argument: 'window',
      expected: `at most ${context} tokens`,
      received: String(window),
    });
  }
  const count = Math.min(Math.floor(ids.length / window), windows);
  if (count === 0) {
    const expected = `at least one full window of ${window} tokens`;
    throw new MoeError('INVALID_ARGUMENT', { argument: 'ids', expected, received: `${ids.length} tokens` });
  }
  return Array.from({ length: count }, (_, index) => ids.subarray(index * window, (index + 1) * window));
}

/** Packs windows into runs of at most 512 tokens: several short ones together, a long one alone. */
export function packWindows(windows: readonly Int32Array[]): Int32Array[][] {
  const packs: Int32Array[][] = [];
  let room = 0;
  for (const window of windows) {
    if (window.length > room || packs.length === 0) {
      packs.push([]);
      room = maximumTokens;
    }
    packs.at(-1)?.push(window);
    room -= window.length;
  }
  return packs;
}

/** Tokens of the largest pack, for the cache: pages are whole for each window. */
export function packTokens(packs: readonly (readonly Int32Array[])[], pageSize: number): number {
  const whole = (tokens: number): number => Math.ceil(tokens / pageSize) * pageSize;
  return packs.reduce(
    (most, pack) =>
      Math.max(
        most,
        pack.reduce((sum, { length }) => sum + whole(length), 0),
      ),
    0,
  );
}

/**
 * The runs of one pack, in order: one, or several for a window that is longer than a run. `offsets` says where each chunk
 * begins in its window.
 */
export function* packRuns(pack: readonly Int32Array[], cache: KvCache): Generator<{ chunks: Chunk[]; offset: number }> {
  const sequences = pack.map(() => cache.sequence());
  try {
    const longest = pack.length === 1 ? (pack[0] as Int32Array).length : 1;
    for (let offset = 0; offset < longest; offset += maximumTokens) {
      const end = pack.length === 1 ? offset + maximumTokens : undefined;
      yield {
        offset,
        chunks: pack.map((ids, index) => ({
          sequence: sequences[index] as Chunk['sequence'],
          ids: ids.subarray(offset, end),
        })),
      };
    }
  } finally {
    for (const sequence of sequences) cache.release(sequence);
  }
}

/** Scores every window on its own; the first token of each is not scored. */
export async function evaluateWindows(
  runner: Runner,
  cache: KvCache,
  packs: readonly (readonly Int32Array[])[],
  options: EvaluateOptions,
): Promise<Evaluation> {
  const { signal, onProgress } = options;
  const total = packs.reduce((sum, pack) => sum + pack.length, 0);
  let [sum, tokens, done] = [0, 0, 0];
  for (const pack of packs) {
    for (const { chunks, offset } of packRuns(pack, cache)) {
      const targets = Int32Array.from(
        chunks.flatMap(({ ids }, index) => Array.from(ids, (_, i) => pack[index]?.[offset + i + 1] ?? -1)),
      );
      const result = new Float32Array(targets.length);
      await runner.score(chunks, targets, result, { cache, signal });
      for (const [index, target] of targets.entries()) {
        if (target < 0) continue;
        sum -= result[index] as number;
        tokens++;
      }
    }
    done += pack.length;
    onProgress?.({ phase: 'evaluate', done, total });
  }
  return { nll: sum / tokens, tokens };
}
