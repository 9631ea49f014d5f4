/** Calibration windows, several at once as sequences of one batch, and their hidden states on the way through a model. */
import { pageSize } from '../../model/kv-cache.ts';

/** Several windows that run at once, as sequences of one batch. */
export interface Batch {
  readonly ids: Int32Array;
  readonly places: Readonly<Record<'positions' | 'sequence' | 'lengths' | 'pages', Int32Array>>;
  /** f32 [tokens, hidden]: what the next layer gets. */
  hidden: Float32Array;
  /** f32 [tokens, hidden]: after the attention of the layer that was entered. */
  middle: Float32Array;
  /** Which copy of the windows it belongs to; 0: the first one. */
  readonly branch: number;
  /** The same windows in the original model, whose `hidden` is one block ahead while a layer is entered. */
  original?: Batch;
}

const batchTokens = 512;

/** Batches of whole windows, of 512 tokens at most unless one window has more; their hidden states are not there yet. */
export function intoBatches(windows: readonly Int32Array[]): Batch[] {
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
      branch: 0,
    };
  });
}
