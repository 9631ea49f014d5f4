/** Runs token windows through a model whose graph has taps: calibration statistics, traces. */
import type { Tensor } from '../tensor/tensor.ts';
import type { CachePool } from './cache-pool.ts';
import type { Tap } from './decoder.ts';
import { type Progress, packRuns, packTokens, packWindows } from './evaluate.ts';
import { pageSize } from './kv-cache.ts';
import type { Runner } from './runner.ts';

export interface ObserveOptions {
  /** The states that the tap declares with `graph.state`, by name; the caller owns them. */
  states?: Readonly<Record<string, Tensor>> | undefined;
  /** Only the first so many layers are run. Default: all. */
  layers?: number | undefined;
  /**
   * Given the outputs that the tap named with `graph.output`, after each run, with the number of tokens in it. Windows come in
   * order; a run holds several short windows, or a part of a long one. The tensors are disposed when the returned promise resolves.
   */
  onOutputs?: ((outputs: Readonly<Record<string, Tensor>>, tokens: number) => void | Promise<void>) | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
}

export async function observeWindows(
  runner: Runner,
  pool: CachePool,
  windows: readonly Int32Array[],
  tap: Tap,
  options: ObserveOptions,
): Promise<void> {
  const { states = {}, onOutputs, onProgress, signal } = options;
  // Layers after the last MoE layer are left out: no tap sees them.
  const kinds = runner.config.layers.slice(0, options.layers).map(({ block }) => block.kind);
  const layers = kinds.lastIndexOf('moe') + 1;
  signal?.throwIfAborted();
  if (layers === 0) return;
  const packs = packWindows(windows);
  const program = runner.compileTap(tap, layers);
  const cache = pool.borrow(packTokens(packs, pageSize));
  try {
    let done = 0;
    for (const pack of packs) {
      for (const { chunks } of packRuns(pack, cache)) {
        const outputs = await runner.observe(program, chunks, states, { cache, signal, layers });
        try {
          await onOutputs?.(
            outputs,
            chunks.reduce((sum, { ids }) => sum + ids.length, 0),
          );
        } finally {
          for (const tensor of Object.values(outputs)) tensor.dispose();
        }
      }
      done += pack.length;
      onProgress?.({ phase: 'observe', done, total: windows.length });
    }
  } finally {
    pool.giveBack(cache);
    program.dispose();
  }
}
