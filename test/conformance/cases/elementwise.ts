/** embed, norm, rotate, map, take, convolve: a row at a time, no weights. */
import type { Dtype, MapFunction } from '../../../lib/index.ts';
import type { Case } from '../kit.ts';

const nan = Number.NaN;
const infinity = Number.POSITIVE_INFINITY;

export const embed: readonly Case[] = [
  ...(['f32', 'f16', 'bf16'] as const).map(
    (dtype): Case => ({
      title: `${dtype} table, ids out of range and negative`,
      bound: 'exact',
      async build(k) {
        const ids = k.input('ids', 'i32', ['tokens'], Int32Array.of(0, 59, -1, 60, 7, 7, 2147483647, -2147483648));
        k.output('y', k.g.embed(ids, await k.tensor(dtype, [60, 511], k.normal(60 * 511))));
      },
    }),
  ),
  {
    title: 'scaled, bf16 table to f32',
    bound: 'element',
    async build(k) {
      const ids = k.input('ids', 'i32', ['tokens'], k.ints(72, 0, 257));
      const table = await k.tensor('bf16', [257, 60], k.normal(257 * 60));
      k.output('y', k.g.embed(ids, table, { scale: Math.sqrt(60), dtype: 'f32' }));
    },
  },
  {
    title: 'no tokens',
    bound: 'exact',
    async build(k) {
      const ids = k.input('ids', 'i32', ['tokens'], new Int32Array(0));
      k.output('y', k.g.embed(ids, await k.tensor('f32', [4, 60], k.normal(240)), { dtype: 'f16' }));
    },
  },
];

export const norm: readonly Case[] = [
  ...(['f32', 'f16', 'bf16'] as const).map(
    (dtype): Case => ({
      title: `rms, ${dtype}, width 511`,
      bound: 'sum',
      k: 511,
      async build(k) {
        k.output('y', k.g.norm(k.x(5, 511, dtype), await k.tensor(dtype, [511], k.normal(511)), { epsilon: 1e-5 }));
      },
    }),
  ),
  {
    title: 'rms, heads of 60 in a row of 360, f32 weight under bf16',
    bound: 'sum',
    k: 60,
    async build(k) {
      k.output('y', k.g.norm(k.x(3, 360, 'bf16'), await k.tensor('f32', [60], k.normal(60)), { width: 60 }));
    },
  },
  {
    title: 'rms, no weight, rows of zeros and of one value',
    bound: 'sum',
    build(k) {
      const data = new Float32Array(3 * 72);
      data.fill(1e-4, 72, 144);
      data.fill(-3e4, 144);
      k.output('y', k.g.norm(k.input('x', 'f32', ['tokens', 72], data), undefined));
    },
  },
  ...(['f32', 'bf16'] as const).map(
    (dtype): Case => ({
      title: `residual added first, ${dtype}, width 672`,
      bound: 'sum',
      k: 672,
      async build(k) {
        const weight = await k.tensor('f32', [672], k.normal(672));
        const { y, sum } = k.g.addNorm(k.x(7, 672, dtype), k.x(7, 672, dtype, 'residual'), weight);
        k.output('y', y);
        k.output('sum', sum);
      },
    }),
  ),
  {
    title: 'layer with bias, a large mean',
    bound: 'chain',
    k: 257,
    async build(k) {
      const data = k.normal(4 * 257).map((value) => value + 30);
      const x = k.input('x', 'f32', ['tokens', 257], data);
      const bias = await k.tensor('f32', [257], k.normal(257));
      k.output('y', k.g.norm(x, await k.tensor('f32', [257], k.normal(257)), { kind: 'layer', bias }));
    },
  },
  {
    title: 'layer, f16 with a residual, one wide row',
    bound: 'sum',
    k: 704,
    async build(k) {
      const weight = await k.tensor('f16', [704], k.normal(704));
      const { y, sum } = k.g.addNorm(k.x(1, 704, 'f16'), k.x(1, 704, 'f16', 'residual'), weight, { kind: 'layer' });
      k.output('y', y);
      k.output('sum', sum);
    },
  },
  {
    title: 'no tokens',
    bound: 'exact',
    build: (k) => k.output('y', k.g.norm(k.x(0, 60), undefined)),
  },
];

function rotateCase(
  title: string,
  dtype: Dtype,
  tokens: number,
  heads: number,
  width: number,
  pairs: number,
  options: object,
): Case {
  return {
    title,
    bound: 'transcendental',
    async build(k) {
      const positions = k.input('positions', 'i32', ['tokens'], k.ints(tokens, 0, 5000));
      const frequencies = Float32Array.from({ length: pairs }, (_, i) => 10000 ** (-i / pairs));
      const table = await k.tensor('f32', [pairs], frequencies);
      k.output('y', k.g.rotate(k.x(tokens, heads * width, dtype), positions, table, { heads, ...options }));
    },
  };
}

export const rotate: readonly Case[] = [
  rotateCase('half split, f32', 'f32', 9, 3, 60, 30, {}),
  rotateCase('half split, f16', 'f16', 9, 3, 64, 32, {}),
  rotateCase('interleaved, bf16', 'bf16', 4, 2, 60, 30, { interleaved: true }),
  rotateCase('interleaved, f32, a part of the head', 'f32', 4, 2, 72, 17, { interleaved: true }),
  rotateCase('half split, a part of the head, scaled', 'f32', 5, 1, 72, 17, { scale: 1.25 }),
  rotateCase('no tokens', 'f32', 0, 2, 8, 4, {}),
  {
    title: 'positions negative and far',
    bound: 'transcendental',
    async build(k) {
      const positions = k.input('positions', 'i32', ['tokens'], Int32Array.of(0, -1, 131071, 1 << 20));
      const table = await k.tensor('f32', [4], Float32Array.of(1, 0.25, 0.01, 1e-4));
      k.output('y', k.g.rotate(k.x(4, 16), positions, table, { heads: 2 }));
    },
  },
];

const functions: Record<MapFunction, { alpha?: number; beta?: number; two?: boolean; bound: Case['bound'] }> = {
  add: { alpha: 0.75, beta: -1.5, two: true, bound: 'element' },
  multiply: { two: true, bound: 'element' },
  scale: { alpha: 1.7, beta: -0.3, bound: 'element' },
  clamp: { alpha: -0.5, beta: 0.75, bound: 'exact' },
  relu: { bound: 'exact' },
  gelu: { bound: 'transcendental' },
  gelu_tanh: { bound: 'transcendental' },
  silu: { bound: 'transcendental' },
  sigmoid: { bound: 'transcendental' },
  tanh: { bound: 'transcendental' },
};

export const map: readonly Case[] = [
  ...(Object.keys(functions) as MapFunction[]).flatMap((name) =>
    (['f32', 'f16', 'bf16'] as const).map((dtype): Case => {
      const { two, bound, ...options } = functions[name];
      return {
        title: `${name}, ${dtype}, width 257`,
        bound,
        build(k) {
          const a = k.input('a', dtype, ['tokens', 257], k.normal(3 * 257, 3));
          k.output('y', k.g.map(name, a, two ? k.x(3, 257, dtype, 'b') : undefined, options));
        },
      };
    }),
  ),
  ...(['add', 'multiply'] as const).map(
    (name): Case => ({
      title: `${name}, a column spread over the row`,
      bound: 'element',
      build: (k) => k.output('y', k.g.map(name, k.x(5, 511), k.x(5, 1, 'f32', 'b'))),
    }),
  ),
  ...(['relu', 'gelu', 'gelu_tanh', 'silu', 'sigmoid', 'tanh'] as const).map(
    (name): Case => ({
      title: `${name}, far out on both sides`,
      bound: 'transcendental',
      build(k) {
        const far = Float32Array.of(0, -0, 1e-30, -1e-30, 20, -20, 90, -90, 1e4, -1e4, infinity);
        k.output('y', k.g.map(name, k.input('a', 'f32', ['tokens', far.length], far)));
      },
    }),
  ),
  {
    title: 'add, infinities and NaN',
    bound: 'element',
    build(k) {
      const a = k.input('a', 'f32', ['tokens', 5], Float32Array.of(nan, infinity, -infinity, infinity, 1));
      const b = k.input('b', 'f32', ['tokens', 5], Float32Array.of(1, 1, 1, -infinity, nan));
      k.output('y', k.g.add(a, b));
    },
  },
  { title: 'no tokens', bound: 'exact', build: (k) => k.output('y', k.g.map('silu', k.x(0, 60))) },
];

export const take: readonly Case[] = [
  ...(['f32', 'f16', 'bf16'] as const).map(
    (dtype): Case => ({
      title: `${dtype}, repeated and out of range`,
      bound: 'exact',
      build(k) {
        const index = k.input('index', 'i32', ['rows'], Int32Array.of(71, 0, 0, -1, 72, 2147483647, 5));
        k.output('y', k.g.take(k.x(72, 257, dtype), index));
      },
    }),
  ),
  {
    title: 'i32, one column',
    bound: 'exact',
    build(k) {
      const x = k.input('x', 'i32', ['tokens', 1], k.ints(60, -1000, 1000));
      k.output('y', k.g.take(x, k.input('index', 'i32', ['rows'], k.order(60))));
    },
  },
  {
    title: 'no rows',
    bound: 'exact',
    build: (k) => k.output('y', k.g.take(k.x(3, 60), k.input('index', 'i32', ['rows'], new Int32Array(0)))),
  },
  {
    title: 'of no tokens',
    bound: 'exact',
    build: (k) => k.output('y', k.g.take(k.x(0, 60), k.input('index', 'i32', ['rows'], Int32Array.of(0, 1)))),
  },
];

/** Two sequences over three runs; the second run starts sequence 1 anew. */
function convolveCase(
  title: string,
  dtype: Dtype,
  width: number,
  options: { activation?: 'silu'; bias?: boolean },
): Case {
  return {
    title,
    bound: options.activation ? 'chain' : 'sum',
    k: width,
    async build(k) {
      const channels = 60;
      const runs = [
        { sequence: [0, 0, 0, 0, 0, 1, 1], positions: [0, 1, 2, 3, 4, 0, 1] },
        { sequence: [1, 1, 1, 0], positions: [0, 1, 2, 5] },
        { sequence: [0, 1], positions: [6, 3] },
      ];
      const data = runs.map(({ sequence }) => k.normal(sequence.length * channels));
      const x = k.input('x', dtype, ['tokens', channels], ...data);
      const sequence = k.input('sequence', 'i32', ['tokens'], ...runs.map((run) => Int32Array.from(run.sequence)));
      const positions = k.input('positions', 'i32', ['tokens'], ...runs.map((run) => Int32Array.from(run.positions)));
      const state = await k.state('state', 'f32', [2, (width - 1) * channels], 'sequences');
      const weight = await k.tensor(dtype, [channels, width], k.normal(channels * width));
      const bias = options.bias ? await k.tensor('f32', [channels], k.normal(channels)) : undefined;
      const { activation = 'none' } = options;
      k.output('y', k.g.convolve(x, weight, sequence, positions, state, { bias, activation }));
    },
  };
}

export const convolve: readonly Case[] = [
  convolveCase('width 4, two sequences, one begins anew', 'f32', 4, {}),
  convolveCase('width 4, silu and bias', 'f32', 4, { activation: 'silu', bias: true }),
  convolveCase('width 2, bf16', 'bf16', 2, {}),
  convolveCase('width 7, longer than some runs, f16', 'f16', 7, { bias: true }),
];
