/** linear over every part of a bank, alone and together: low rank, kept rows, n:m sparse, shared bases, dual-grained scales. */
import { type Activation, type Dtype, formatName, type WeightFormat, type WeightSpec } from '../../../lib/index.ts';
import type { Parts } from '../bank-data.ts';
import type { BoundName } from '../compare.ts';
import type { Case } from '../kit.ts';
import { rowsBelow } from '../kit.ts';

type Mode = 'exact' | 'int8' | 'auto';

const f32: WeightFormat = { format: 'f32' };
const f16: WeightFormat = { format: 'f16' };
const bf16: WeightFormat = { format: 'bf16' };
const int8: WeightFormat = { format: 'int8' };
const int4: WeightFormat = { format: 'int4' };
const sparse = (n: number, m: number, format: WeightFormat): Parts => ({ sparse: { n, m, format } });
const rows = (count: number | readonly number[], format: WeightFormat): Parts => ({ rows: { count, format } });

const forms: readonly Parts[] = [
  { lowRank: { rank: 8 } },
  { lowRank: { rank: 17, format: { format: 'f16' } } },
  { format: int4, lowRank: { rank: 16 } },
  { format: bf16, lowRank: { rank: 1, format: { format: 'f32' } } },
  rows(23, bf16),
  rows(24, { format: 'int8', groupSize: 64, offset: true }),
  { lowRank: { rank: 8 }, ...rows(9, bf16) },
  sparse(2, 4, f16),
  sparse(2, 4, bf16),
  sparse(2, 4, int8),
  sparse(2, 4, int4),
  sparse(1, 4, bf16),
  sparse(4, 8, { format: 'int8', groupSize: 64 }),
  sparse(2, 8, f16),
  { format: { format: 'int4', dual: true } },
  { format: { format: 'int4', groupSize: 128, dual: true, scale: 'f32' } },
  { format: int8, lowRank: { rank: 8 }, ...rows(7, int4), ...sparse(2, 4, { format: 'int8', groupSize: 32 }) },
];

function nameOf({ format, baseOf, lowRank, rows: kept, sparse: blocks }: Parts): string {
  const list = (size: number | readonly number[]) => (typeof size === 'number' ? size : 'ragged');
  return [
    format && `${formatName(format)}${baseOf ? ' shared' : ''}`,
    lowRank && `rank ${list(lowRank.rank)} ${formatName(lowRank.format ?? { format: 'bf16' })}`,
    kept && `${list(kept.count)} rows ${formatName(kept.format)}`,
    blocks && `${blocks.n}:${blocks.m} ${formatName(blocks.format)}`,
  ]
    .filter(Boolean)
    .join(' + ');
}

const modesOf = ({ format, rows: kept, sparse: blocks }: Parts): readonly Mode[] =>
  [format, kept?.format, blocks?.format].some((one) => one?.format === 'int8' || one?.format === 'int4')
    ? ['exact', 'int8']
    : ['exact'];

interface Sizes extends Pick<WeightSpec, 'inOf' | 'outOf' | 'bias'> {
  tokens: number;
  in: number;
  /** Of y. */
  out: number;
  activation?: Activation;
  x?: Dtype;
  bound?: BoundName;
  /** One dense matrix where absent. */
  experts?: number;
  topK?: number;
}

function linear(title: string, parts: Parts, mode: Mode, sizes: Sizes): Case {
  const { tokens, in: width, out, activation = 'none', x: dtype = 'f32', bound, experts, topK = 4, ...others } = sizes;
  const gated = activation === 'swiglu' || activation === 'geglu';
  const slots = experts ?? 1;
  return {
    title: `${experts ? 'grouped, ' : ''}${nameOf(parts)} ${mode}, ${title}`,
    bound: bound ?? (activation === 'none' || activation === 'relu' ? 'sum' : 'chain'),
    k: width,
    async build(k) {
      const weight = await k.weight({ in: width, out: gated ? 2 * out : out, slots, gated, ...parts, ...others });
      const x = k.x(tokens, width, dtype);
      if (!experts) return k.output('y', k.g.linear(x, weight, { mode, activation, dtype: 'f32' }));
      const routing = k.g.route(k.x(tokens, experts, 'f32', 'logits'), { experts, topK });
      k.output('y', k.g.linear(x, weight, { routing, mode, activation }), rowsBelow('offsets'));
      k.output('offsets', routing.offsets);
    },
  };
}

const merged = (experts: number, groups: number): number[] =>
  Array.from({ length: experts }, (_, e) => (e * 7) % groups);
const ragged = (slots: number, most: number): number[] => Array.from({ length: slots }, (_, s) => (s * 5) % (most + 1));
const even = (slots: number, most: number): number[] =>
  Array.from({ length: slots }, (_, s) => 2 + 2 * ((s * 5) % (most / 2)));

/** Infinities and NaN in inputs, one of them the first that the last value of a row may read. */
function notReached(form: Parts, mode: Mode, dtype: Dtype, tokens = 4): Case {
  return {
    title: `${nameOf(form)} ${mode}, ${tokens} tokens, infinities and NaN at inputs that few rows keep`,
    bound: 'sum',
    k: 200,
    async build(k) {
      const data = k.normal(tokens * 200);
      [data[203], data[277], data[390]] = [Infinity, NaN, -Infinity];
      [data[433], data[592], data[799]] = [-Infinity, Infinity, Infinity];
      const weight = await k.weight({ in: 200, out: 60, ...form });
      k.output('y', k.g.linear(k.input('x', dtype, ['tokens', 200], data), weight, { mode, dtype: 'f32' }));
    },
  };
}

/** An infinity or a NaN stays in its row, and what pads the sums makes no NaN of an infinity. */
function unbounded(form: Parts): Case {
  return {
    title: `${nameOf(form)} auto, rows with an infinity or a NaN among others`,
    bound: 'rounded',
    k: 33,
    async build(k) {
      const data = k.normal(20 * 33);
      [data[5 * 33 + 32], data[12 * 33], data[19 * 33 + 7]] = [Infinity, -Infinity, NaN];
      const weight = await k.weight({ in: 33, out: 60, ...form });
      k.output('y', k.g.linear(k.input('x', 'bf16', ['tokens', 33], data), weight, { mode: 'auto', dtype: 'f32' }));
    },
  };
}

// What is rounded to bf16 in mode auto: x, which already is what it would be rounded to, and A·x.
const autoCases: readonly Case[] = [
  ...[1, 5, 60].flatMap((tokens) => [
    linear('x in bf16', { format: bf16 }, 'auto', { tokens, in: 511, out: 257, x: 'bf16' }),
    linear('x in bf16', rows(23, bf16), 'auto', { tokens, in: 257, out: 72, x: 'bf16' }),
    linear('x in f32', { format: bf16 }, 'auto', { tokens, in: 511, out: 60, bound: 'rounded' }),
    linear('x in f32', { lowRank: { rank: 37 } }, 'auto', { tokens, in: 257, out: 72, bound: 'rounded' }),
    // The last step of four has two values (2:4), one (1:8) or three (3:7); 2:64 lies too far apart for one look-up.
    ...[sparse(2, 4, bf16), sparse(1, 8, bf16), sparse(3, 7, bf16), sparse(2, 64, bf16)].map((form) =>
      linear('x in bf16', form, 'auto', { tokens, in: form.sparse?.m === 7 ? 511 : 515, out: 257, x: 'bf16' }),
    ),
  ]),
  ...[1, 33].map((width) =>
    linear('x in bf16', { format: bf16 }, 'auto', { tokens: 17, in: width, out: 60, x: 'bf16' }),
  ),
  ...[{ format: bf16 }, { lowRank: { rank: 1 } }, rows(23, bf16)].map(unbounded),
  linear('some slots of one base', { format: bf16, baseOf: merged(7, 2), lowRank: { rank: 3 } }, 'auto', {
    tokens: 70,
    in: 72,
    out: 60,
    experts: 7,
    topK: 2,
    bound: 'rounded',
  }),
  linear('some experts, widths differ', { ...sparse(2, 4, bf16), lowRank: { rank: 5 } }, 'auto', {
    tokens: 60,
    in: 72,
    inOf: [72, 40, 36, 8, 68],
    out: 72,
    experts: 5,
    bound: 'rounded',
  }),
  linear('some experts', { format: bf16, lowRank: { rank: 8 } }, 'auto', {
    tokens: 33,
    in: 60,
    out: 72,
    experts: 6,
    bound: 'rounded',
  }),
];

export const parts: readonly Case[] = [
  ...autoCases,
  ...forms.flatMap((form) =>
    modesOf(form).flatMap((mode) => [
      linear('one token, 511 → 257', form, mode, { tokens: 1, in: 511, out: 257 }),
      linear('60 tokens, 131 → 72', form, mode, { tokens: 60, in: 131, out: 72, bias: true }),
      linear('gated', form, mode, { tokens: 7, in: 192, out: 60, activation: 'swiglu' }),
      linear('60 experts, top 4', form, mode, { experts: 60, tokens: 9, in: 60, out: 72 }),
      linear('6 experts, gated', form, mode, { experts: 6, topK: 2, tokens: 33, in: 72, out: 60, activation: 'geglu' }),
    ]),
  ),
  ...(['exact', 'int8'] as const).flatMap((mode) => [
    linear('12 of 60 experts a base', { format: int4, baseOf: merged(60, 5), lowRank: { rank: 8 } }, mode, {
      experts: 60,
      tokens: 9,
      in: 60,
      out: 72,
    }),
    linear('gated', { format: int8, baseOf: merged(6, 2), ...sparse(2, 4, int8) }, mode, {
      experts: 6,
      topK: 2,
      tokens: 33,
      in: 72,
      out: 60,
      activation: 'swiglu',
    }),
  ]),
  linear(
    'every expert the same base',
    { format: f32, baseOf: merged(60, 1), lowRank: { rank: ragged(60, 9) } },
    'exact',
    {
      experts: 60,
      tokens: 9,
      in: 60,
      out: 72,
    },
  ),
  linear('ranks from 0', { lowRank: { rank: ragged(60, 12) } }, 'exact', { experts: 60, tokens: 17, in: 60, out: 72 }),
  linear('counts from 0', rows(ragged(60, 12), bf16), 'exact', { experts: 60, tokens: 17, in: 60, out: 72 }),
  linear('counts and ranks from 0', { lowRank: { rank: ragged(60, 7) }, ...rows(ragged(60, 12), int8) }, 'int8', {
    experts: 60,
    tokens: 17,
    in: 60,
    out: 72,
    bias: true,
  }),
  linear('a rank above both widths', { lowRank: { rank: 72, format: { format: 'f32' } } }, 'exact', {
    tokens: 5,
    in: 60,
    out: 8,
  }),
  linear('every row kept', rows(72, bf16), 'exact', { tokens: 5, in: 60, out: 72 }),
  linear('one row kept', rows(1, f32), 'exact', { tokens: 5, in: 60, out: 72 }),
  ...[sparse(2, 4, int8), sparse(2, 4, bf16), rows(3, int4), { format: { ...int4, dual: true } } as Parts].flatMap(
    (form) => [
      linear('fewer inputs than a block', form, 'exact', { tokens: 5, in: 3, out: 60 }),
      linear('some widths differ', form, 'exact', {
        experts: 5,
        topK: 2,
        tokens: 33,
        in: 60,
        out: 72,
        inOf: [60, 7, 1, 33, 60],
        outOf: [72, 72, 5, 60, 24],
      }),
      linear('no tokens', form, 'exact', { tokens: 0, in: 60, out: 72 }),
    ],
  ),
  linear('gated, widths differ', { lowRank: { rank: ragged(5, 4) }, ...sparse(2, 4, bf16) }, 'exact', {
    experts: 5,
    topK: 2,
    tokens: 33,
    in: 60,
    out: 72,
    outOf: even(5, 120),
    activation: 'swiglu',
  }),
  // Factors and kept rows alone, whose tiles are done in runs: more tiles than a run, more rows than a block.
  ...(['exact', 'int8'] as const).flatMap((mode) => {
    const form: Parts = { lowRank: { rank: 8 }, ...rows(301, int4) };
    return [
      linear('several runs of tiles', form, mode, { tokens: 29, in: 64, out: 1100, bias: true, activation: 'silu' }),
      linear('several runs of tiles, gated', form, mode, { tokens: 29, in: 64, out: 600, activation: 'swiglu' }),
      linear('several runs of tiles, widths differ', form, mode, {
        experts: 3,
        topK: 2,
        tokens: 40,
        in: 64,
        out: 1100,
        outOf: [1100, 301, 1043],
      }),
    ];
  }),
  linear('a rank that shortens runs', { lowRank: { rank: 300, format: f32 }, ...rows(5, f32) }, 'exact', {
    tokens: 29,
    in: 300,
    out: 300,
  }),
  // Blocks wider than a word of 32, of odd widths, and as wide as a place can name.
  ...[
    sparse(2, 4, f32),
    sparse(3, 16, bf16),
    sparse(5, 32, { format: 'int8', groupSize: 64 }),
    sparse(9, 64, { format: 'int4', groupSize: 64 }),
    sparse(20, 128, { format: 'int4', groupSize: 128 }),
    sparse(7, 256, f16),
    sparse(3, 7, { format: 'int4', groupSize: 'channel' }),
    sparse(11, 45, f32),
  ].flatMap((form) =>
    modesOf(form).flatMap((mode) => [
      linear('33 tokens, 600 → 40', form, mode, { tokens: 33, in: 600, out: 40, bias: true }),
      linear('5 experts, gated', form, mode, {
        experts: 5,
        topK: 2,
        tokens: 9,
        in: 300,
        out: 20,
        activation: 'swiglu',
      }),
    ]),
  ),
  ...[sparse(2, 4, bf16), sparse(2, 4, int4), sparse(2, 4, { format: 'int8', groupSize: 32 })].flatMap((form) =>
    modesOf(form).map((mode) => linear('130 tokens, 260 → 136', form, mode, { tokens: 130, in: 260, out: 136 })),
  ),
  ...forms
    .filter((form) => modesOf(form).length > 1)
    .map(
      (form): Case => ({
        title: `${nameOf(form)} int8, rows of zeros and of one spike`,
        bound: 'sum',
        k: 128,
        async build(k) {
          const data = new Float32Array(3 * 128);
          data[128 + 77] = -1e4;
          data.fill(1e-20, 256, 300);
          const weight = await k.weight({ in: 128, out: 60, ...form });
          k.output('y', k.g.linear(k.input('x', 'f32', ['tokens', 128], data), weight, { mode: 'int8' }));
        },
      }),
    ),
  // A base, a sparse part, a low-rank one and biases in one sum; S reads x as the base does, or in a form of its own.
  ...[
    { format: int4, ...sparse(2, 4, int4), lowRank: { rank: 8 } },
    { format: int8, ...sparse(2, 4, { format: 'int8', groupSize: 32 }), lowRank: { rank: 5 }, ...rows(3, bf16) },
    { format: bf16, ...sparse(2, 4, bf16), lowRank: { rank: 17, format: f16 } },
    { format: f16, ...sparse(2, 4, f16) },
    { format: int4, ...sparse(2, 4, bf16), lowRank: { rank: 8 } },
    { format: f32, ...sparse(2, 4, { format: 'int4', groupSize: 64 }) },
    { format: { ...int4, dual: true }, ...sparse(2, 4, int8) },
    { format: bf16, ...sparse(2, 4, f32) },
    { format: int8, ...sparse(1, 4, int8), lowRank: { rank: 8 } },
  ].flatMap((form: Parts) =>
    modesOf(form).flatMap((mode) => [
      ...[1, 5, 40, 130].map((tokens) =>
        linear(`${tokens} tokens, 260 → 136`, form, mode, {
          tokens,
          in: 260,
          out: 136,
          bias: true,
          activation: 'relu',
        }),
      ),
      linear('40 tokens, gated', form, mode, { tokens: 40, in: 192, out: 60, bias: true, activation: 'swiglu' }),
      linear('60 experts, top 4, gated', form, mode, {
        experts: 60,
        tokens: 9,
        in: 72,
        out: 44,
        bias: true,
        activation: 'geglu',
      }),
      linear('3 experts, 70 tokens', form, mode, { experts: 3, topK: 2, tokens: 70, in: 136, out: 72, bias: true }),
    ]),
  ),
  linear(
    'ranks from 0',
    { format: int4, baseOf: merged(5, 2), ...sparse(2, 4, int4), lowRank: { rank: ragged(5, 9) } },
    'exact',
    { experts: 5, topK: 2, tokens: 33, in: 72, out: 60, bias: true },
  ),
  linear('some widths differ', { format: int8, ...sparse(2, 4, int8), lowRank: { rank: ragged(5, 4) } }, 'exact', {
    experts: 5,
    topK: 2,
    tokens: 70,
    in: 60,
    out: 72,
    inOf: [60, 7, 1, 33, 60],
    outOf: [72, 72, 5, 60, 24],
  }),
  // What a row does not use cannot reach it.
  ...[
    sparse(2, 4, bf16),
    sparse(1, 4, bf16),
    sparse(2, 8, f16),
    sparse(4, 8, { format: 'int8', groupSize: 64 }),
    sparse(3, 7, { format: 'int4', groupSize: 'channel' }),
    sparse(11, 45, f32),
  ].map((form) => notReached(form, 'exact', 'f32')),
  // In bf16, and where the last value stands alone (1:8).
  ...[sparse(2, 4, bf16), sparse(1, 4, bf16), sparse(1, 8, bf16)].flatMap((form) => [
    notReached(form, 'auto', 'bf16'),
    notReached(form, 'auto', 'bf16', 20),
  ]),
];
