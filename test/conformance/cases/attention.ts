/** attention: ragged batches over shuffled pages. */
import type { Dtype } from '../../../lib/index.ts';
import type { Case, Kit } from '../kit.ts';

interface Options {
  heads: number;
  kvHeads: number;
  /** D. */
  size: number;
  /** New tokens of each sequence in each run: [run][sequence]. */
  runs: readonly (readonly number[])[];
  /** Keys of each sequence that are in the caches before the first run; default none. */
  past?: readonly number[];
  pageSize?: number;
  dtype?: Dtype;
  cache?: Dtype;
  causal?: boolean;
  window?: number;
  softCap?: number;
  scale?: number;
  /** Changes the pages table: [sequences · P]. */
  pages?: (pages: Int32Array) => void;
  lengths?: (lengths: Int32Array) => void;
  /** NaN and infinities in all places of the caches that hold none of the past keys. */
  stale?: boolean;
  /** Tokens of the first run with NaN and infinities in every other column of their key or value. */
  spoiled?: { readonly k?: readonly number[]; readonly v?: readonly number[] };
}

const noNumbers = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY] as const;

/** Every other element from `from` to `to`. */
function spoil(data: Float32Array, from: number, to: number): void {
  for (let i = from; i < to; i += 2) data[i] = noNumbers[(i >> 1) % 3] as number;
}

function attend(title: string, options: Options): Case {
  const refusedBy = options.cache === 'i8' ? ['cuda', 'simt'] : [];
  return { title, bound: 'chain', k: options.size, refusedBy, build: (k) => build(k, options) };
}

async function build(k: Kit, options: Options): Promise<void> {
  const { heads, kvHeads, size, runs, pageSize = 16, dtype = 'f32', cache = 'f32' } = options;
  const sequences = runs[0]?.length ?? 0;
  const past = options.past ?? new Array<number>(sequences).fill(0);
  const totals = past.map((keys, s) => runs.reduce((sum, run) => sum + (run[s] ?? 0), keys));
  const perSequence = Math.max(1, ...totals.map((total) => Math.ceil(total / pageSize)));
  const pageCount = sequences * perSequence + 2;
  const pages = k.order(pageCount).slice(0, sequences * perSequence);
  options.pages?.(pages);

  const sequence: Int32Array[] = [];
  const positions: Int32Array[] = [];
  const lengths: Int32Array[] = [];
  const before = Int32Array.from(past);
  for (const run of runs) {
    sequence.push(Int32Array.from(run.flatMap((count, s) => new Array<number>(count).fill(s))));
    positions.push(
      Int32Array.from(run.flatMap((count, s) => Array.from({ length: count }, (_, i) => (before[s] ?? 0) + i))),
    );
    run.forEach((count, s) => {
      before[s] = (before[s] ?? 0) + count;
    });
    lengths.push(before.slice());
  }
  for (const counts of lengths) options.lengths?.(counts);
  const flow = (name: 'q' | 'k' | 'v', width: number) => {
    const data = sequence.map((tokens) => k.normal(tokens.length * width));
    const tokens = name === 'q' ? [] : (options.spoiled?.[name] ?? []);
    for (const token of tokens) spoil(data[0] as Float32Array, token * width, (token + 1) * width);
    return k.input(name, dtype, ['tokens', width], ...data);
  };
  const caches = [pageCount, pageSize, kvHeads * (cache === 'i8' ? size + 4 : size)] as const;
  const pastPlaces = new Set(
    past.flatMap((count, s) =>
      Array.from({ length: count }, (_, p) => {
        const page = pages[s * perSequence + Math.floor(p / pageSize)] as number;
        return page * pageSize + (p % pageSize);
      }),
    ),
  );
  const held = () => {
    if (!options.past && !options.stale) return undefined;
    const data = k.normal(caches[0] * caches[1] * caches[2]);
    for (let place = 0; options.stale && place < caches[0] * caches[1]; place++)
      if (!pastPlaces.has(place)) spoil(data, place * caches[2], (place + 1) * caches[2]);
    return data;
  };
  const y = k.g.attention({
    q: flow('q', heads * size),
    k: flow('k', kvHeads * size),
    v: flow('v', kvHeads * size),
    positions: k.input('positions', 'i32', ['tokens'], ...positions),
    sequence: k.input('sequence', 'i32', ['tokens'], ...sequence),
    lengths: k.input('lengths', 'i32', ['sequences'], ...lengths),
    pages: k.input('pages', 'i32', ['table'], ...runs.map(() => pages)),
    kCache: await k.state('kCache', cache, caches, 'pages', held()),
    vCache: await k.state('vCache', cache, caches, 'pages', held()),
    heads,
    kvHeads,
    ...(options.causal !== undefined && { causal: options.causal }),
    ...(options.window !== undefined && { window: options.window }),
    ...(options.softCap !== undefined && { softCap: options.softCap }),
    ...(options.scale !== undefined && { scale: options.scale }),
  });
  k.output('y', y);
}

const small = { heads: 4, kvHeads: 2, size: 20 } as const;

export const attention: readonly Case[] = [
  attend('prefill of 41, then one by one, heads of 60', { heads: 4, kvHeads: 4, size: 60, runs: [[41], [1], [1]] }),
  attend('three sequences of different length, shuffled pages', {
    ...small,
    runs: [
      [17, 1, 33],
      [1, 1, 1],
      [2, 0, 5],
    ],
  }),
  attend('8 heads over one', { heads: 8, kvHeads: 1, size: 32, runs: [[19], [1]] }),
  attend('72 heads of 4', { heads: 72, kvHeads: 72, size: 4, runs: [[5], [1]] }),
  attend('257 keys', { heads: 2, kvHeads: 1, size: 64, runs: [[256], [1]] }),
  attend('bf16 over an f32 cache', { ...small, dtype: 'bf16', runs: [[21], [1]] }),
  attend('f16 over an f16 cache', { ...small, dtype: 'f16', cache: 'f16', runs: [[21], [1]] }),
  attend('f32 over a bf16 cache', { ...small, cache: 'bf16', runs: [[21], [1]] }),
  attend('f32 over an i8 cache, three sequences', {
    ...small,
    cache: 'i8',
    runs: [
      [21, 70, 1],
      [1, 1, 1],
      [2, 0, 9],
    ],
  }),
  attend('bf16 over an i8 cache, heads of 128, 8 over one', {
    heads: 8,
    kvHeads: 1,
    size: 128,
    dtype: 'bf16',
    cache: 'i8',
    runs: [[150], [1], [2]],
  }),
  attend('f16 over an i8 cache, 5 heads over one, window, soft cap, pages of 3', {
    heads: 10,
    kvHeads: 2,
    size: 37,
    pageSize: 3,
    window: 50,
    softCap: 4,
    dtype: 'f16',
    cache: 'i8',
    runs: [
      [90, 4],
      [1, 1],
    ],
  }),
  attend('f32 over an i8 cache, a page that is none, values that are no numbers', {
    ...small,
    cache: 'i8',
    runs: [[60], [1]],
    spoiled: { v: [59], k: [58] },
    pages: (pages) => pages.fill(-1, 1, 2),
  }),
  attend('window of 5', {
    ...small,
    window: 5,
    runs: [
      [23, 3],
      [1, 1],
    ],
  }),
  attend('window of 1', { ...small, window: 1, runs: [[9]] }),
  attend('soft cap', { ...small, softCap: 2, scale: 1.5, runs: [[23], [1]] }),
  attend('not causal', { ...small, causal: false, runs: [[18, 7]] }),
  attend('not causal, window', { ...small, causal: false, window: 3, runs: [[18]] }),
  attend('pages of 1', {
    ...small,
    pageSize: 1,
    runs: [
      [5, 3],
      [1, 1],
    ],
  }),
  attend('scores far apart', { ...small, scale: 200, runs: [[20], [1]] }),
  attend('no key to see', { ...small, runs: [[3, 2]], lengths: (lengths) => lengths.fill(0, 0, 1) }),
  attend('a page that is none', { ...small, runs: [[40], [1]], pages: (pages) => pages.fill(-1, 1, 2) }),
  attend('a page out of range', { ...small, runs: [[40], [1]], pages: (pages) => pages.fill(1 << 30, 0, 1) }),
  attend('bf16 over a bf16 cache, heads of 128, 8 over one', {
    heads: 8,
    kvHeads: 1,
    size: 128,
    dtype: 'bf16',
    cache: 'bf16',
    runs: [[75], [1]],
  }),
  attend('bf16, tiles of several sequences, heads of 40', {
    heads: 2,
    kvHeads: 2,
    size: 40,
    dtype: 'bf16',
    cache: 'bf16',
    runs: [
      [30, 3, 70, 1],
      [9, 1, 1, 20],
    ],
  }),
  attend('f16, window over the borders of tiles, heads of 80', {
    heads: 3,
    kvHeads: 1,
    size: 80,
    dtype: 'f16',
    cache: 'f16',
    window: 50,
    runs: [[130], [1]],
  }),
  attend('f16, not causal, soft cap, heads of 256', {
    heads: 2,
    kvHeads: 2,
    size: 256,
    dtype: 'f16',
    cache: 'f16',
    causal: false,
    softCap: 5,
    runs: [[21, 18]],
  }),
  attend('bf16, a page that is none and no key to see', {
    heads: 4,
    kvHeads: 2,
    size: 64,
    dtype: 'bf16',
    cache: 'bf16',
    runs: [[40, 20]],
    pages: (pages) => pages.fill(-1, 1, 2),
    lengths: (lengths) => lengths.fill(0, 1, 2),
  }),
  attend('one token each after 600 and 3, window of 500', {
    heads: 2,
    kvHeads: 1,
    size: 64,
    window: 500,
    past: [600, 3],
    runs: [
      [1, 1],
      [2, 1],
    ],
  }),
  attend('one token after 700, bf16, 8 heads over one, soft cap', {
    heads: 8,
    kvHeads: 1,
    size: 128,
    softCap: 8,
    dtype: 'bf16',
    cache: 'bf16',
    past: [700],
    runs: [[1], [1]],
  }),
  attend('one token after 300, f16, 5 heads over one, pages of 24', {
    heads: 10,
    kvHeads: 2,
    size: 72,
    pageSize: 24,
    dtype: 'f16',
    cache: 'f16',
    past: [300, 20],
    runs: [[1, 1]],
  }),
  attend('one token after 200, f32 over f16, heads of 300', {
    heads: 2,
    kvHeads: 1,
    size: 300,
    cache: 'f16',
    past: [200],
    runs: [[1], [20]],
  }),
  attend('one token after 260, f32, 7 heads over one, heads of 24', {
    heads: 7,
    kvHeads: 1,
    size: 24,
    past: [260],
    runs: [[1]],
  }),
  attend('f32, heads of 128, window over the borders of tiles', {
    heads: 6,
    kvHeads: 2,
    size: 128,
    window: 40,
    runs: [
      [70, 11],
      [1, 30],
    ],
  }),
  attend('f32 over a bf16 cache, heads of 200', { heads: 1, kvHeads: 1, size: 200, cache: 'bf16', runs: [[70], [1]] }),
  // What a row does not see must not reach it: 0 · NaN is NaN.
  attend('f32, stale places and later tokens that are no numbers', {
    ...small,
    stale: true,
    spoiled: { v: [23, 58], k: [61] },
    runs: [
      [40, 30],
      [1, 1],
    ],
  }),
  attend('f32 over a bf16 cache, window, keys and values that are no numbers', {
    heads: 2,
    kvHeads: 1,
    size: 64,
    cache: 'bf16',
    window: 9,
    stale: true,
    past: [7],
    spoiled: { v: [3, 37], k: [20] },
    runs: [[70], [1]],
  }),
  attend('bf16, stale places and later tokens that are no numbers, heads of 128', {
    heads: 4,
    kvHeads: 1,
    size: 128,
    dtype: 'bf16',
    cache: 'bf16',
    stale: true,
    past: [5, 70],
    spoiled: { v: [30, 77], k: [88] },
    runs: [
      [64, 30],
      [1, 1],
    ],
  }),
  attend('f16, window, keys and values that are no numbers, heads of 40', {
    heads: 2,
    kvHeads: 2,
    size: 40,
    dtype: 'f16',
    cache: 'f16',
    window: 9,
    stale: true,
    spoiled: { v: [3, 37], k: [50, 75] },
    runs: [[90], [1]],
  }),
  attend('bf16, a later value that is no number, heads of 256', {
    heads: 1,
    kvHeads: 1,
    size: 256,
    dtype: 'bf16',
    cache: 'bf16',
    stale: true,
    spoiled: { v: [33] },
    runs: [[50]],
  }),
  attend('decode on pages of 24 after stale ones, 5 heads over one', {
    heads: 10,
    kvHeads: 2,
    size: 72,
    pageSize: 24,
    dtype: 'f16',
    cache: 'f16',
    stale: true,
    past: [300, 20],
    runs: [[1, 1]],
  }),
  attend('decode on pages of 3 after stale ones, f32', {
    heads: 2,
    kvHeads: 1,
    size: 64,
    pageSize: 3,
    stale: true,
    past: [140, 1],
    runs: [[1, 1]],
  }),
  // On cpu a context is cut at multiples of 512 keys, of 1024 from 8193 keys on, and the parts are joined.
  attend('one token each after 510, 511, 512 and 1600', {
    heads: 4,
    kvHeads: 2,
    size: 24,
    past: [510, 511, 512, 1600],
    runs: [
      [1, 1, 1, 1],
      [1, 1, 1, 1],
    ],
  }),
  attend('one token after 1100, bf16, 8 heads over one, window of 600 over two cuts', {
    heads: 8,
    kvHeads: 1,
    size: 128,
    window: 600,
    dtype: 'bf16',
    cache: 'bf16',
    past: [1100],
    runs: [[1], [1]],
  }),
  attend('f32 over an i8 cache, 40 tokens over a cut, pages of 24', {
    heads: 2,
    kvHeads: 2,
    size: 36,
    pageSize: 24,
    cache: 'i8',
    runs: [
      [490, 100],
      [40, 1],
      [1, 3],
    ],
  }),
  attend('not causal over cuts, soft cap, f16', {
    heads: 2,
    kvHeads: 2,
    size: 40,
    dtype: 'f16',
    cache: 'f16',
    causal: false,
    softCap: 5,
    past: [1020, 2],
    runs: [[9, 1]],
  }),
  attend('tokens before and after 8192', { heads: 2, kvHeads: 1, size: 16, past: [8190], runs: [[4], [1]] }),
  attend('a cut of pages that are none, scores far apart', {
    heads: 2,
    kvHeads: 1,
    size: 20,
    scale: 200,
    past: [1500],
    runs: [[1]],
    pages: (pages) => pages.fill(-1, 32, 64),
  }),
  attend('f32, stale places and values that are no numbers behind a cut', {
    ...small,
    stale: true,
    past: [509],
    spoiled: { v: [2, 5], k: [6] },
    runs: [[8], [1]],
  }),
  attend('one token after 700, 72 heads of 8', {
    heads: 72,
    kvHeads: 72,
    size: 8,
    cache: 'f16',
    past: [700],
    runs: [[1]],
  }),
  attend('no tokens', { ...small, runs: [[0, 0]] }),
];
