/** linear: dense and grouped, every weight form, every explicit mode, every activation. */
import { type Activation, type Dtype, formatName, type WeightFormat } from '../../../lib/index.ts';
import type { Case, Kit } from '../kit.ts';
import { rowsBelow } from '../kit.ts';

const forms: readonly WeightFormat[] = [
  { format: 'f32' },
  { format: 'f16' },
  { format: 'bf16' },
  { format: 'int8' },
  { format: 'int8', offset: true },
  { format: 'int8', groupSize: 32, scale: 'f16' },
  { format: 'int8', groupSize: 64, offset: true },
  { format: 'int8', groupSize: 128, offset: true, scale: 'f16' },
  { format: 'int4' },
  { format: 'int4', offset: false },
  { format: 'int4', groupSize: 64 },
  { format: 'int4', groupSize: 64, offset: false, scale: 'f32' },
  { format: 'int4', groupSize: 128, scale: 'f32' },
  { format: 'int4', groupSize: 'channel' },
  { format: 'int4', groupSize: 'channel', offset: false, scale: 'f32' },
];

type Mode = 'exact' | 'int8';
const modesOf = ({ format }: WeightFormat): readonly Mode[] =>
  format === 'int8' || format === 'int4' ? ['exact', 'int8'] : ['exact'];

interface Dense {
  tokens: number;
  in: number;
  out: number;
  x?: Dtype;
  y?: Dtype;
  activation?: Activation;
  bias?: boolean;
  residual?: boolean;
}

function dense(title: string, format: WeightFormat, mode: Mode, options: Dense): Case {
  const { tokens, in: width, out, x: dtype = 'f32', y, activation = 'none', bias = false } = options;
  const gated = activation === 'swiglu' || activation === 'geglu';
  return {
    title: `${formatName(format)} ${mode}, ${title}`,
    bound: activation === 'none' || activation === 'relu' ? 'sum' : 'chain',
    k: width,
    async build(k) {
      const weight = await k.weight({ in: width, out: gated ? 2 * out : out, gated, format, bias });
      const x = k.x(tokens, width, dtype);
      const residual = options.residual ? k.x(tokens, out, y ?? dtype, 'residual') : undefined;
      k.output('y', k.g.linear(x, weight, { mode, activation, residual, ...(y && { dtype: y }) }));
    },
  };
}

const bf16: WeightFormat = { format: 'bf16' };
const int4: WeightFormat = { format: 'int4' };
const activations: readonly Activation[] = ['none', 'relu', 'gelu', 'gelu_tanh', 'silu', 'swiglu', 'geglu'];

const denseCases: readonly Case[] = [
  ...forms.flatMap((format) =>
    modesOf(format).flatMap((mode) => [
      dense('one token, 511 → 257', format, mode, { tokens: 1, in: 511, out: 257 }),
      dense('60 tokens, 672 → 72', format, mode, { tokens: 60, in: 672, out: 72 }),
      dense('5 tokens, 60 → 1', format, mode, { tokens: 5, in: 60, out: 1 }),
    ]),
  ),
  ...activations.flatMap((activation) => [
    dense(`${activation} with bias`, bf16, 'exact', { tokens: 7, in: 257, out: 60, activation, bias: true }),
    dense(`${activation} with bias`, int4, 'int8', { tokens: 7, in: 257, out: 60, activation, bias: true }),
  ]),
  ...(['f32', 'f16', 'bf16'] as const).flatMap((dtype) => [
    dense(`${dtype} in, out and residual`, bf16, 'exact', { tokens: 9, in: 72, out: 257, x: dtype, residual: true }),
    dense(`${dtype} in, f32 out`, int4, 'int8', { tokens: 9, in: 704, out: 60, x: dtype, y: 'f32' }),
  ]),
  dense('f32 in, bf16 out, gated, residual', { format: 'f32' }, 'exact', {
    tokens: 3,
    in: 60,
    out: 72,
    y: 'bf16',
    activation: 'swiglu',
    residual: true,
  }),
  dense('one input', { format: 'int8' }, 'int8', { tokens: 4, in: 1, out: 60 }),
  dense('one input', int4, 'exact', { tokens: 4, in: 1, out: 60 }),
  dense('257 tokens', { format: 'f32' }, 'exact', { tokens: 257, in: 72, out: 60 }),
  dense('no tokens', int4, 'int8', { tokens: 0, in: 60, out: 72 }),
  dense('no tokens', { format: 'f32' }, 'exact', { tokens: 0, in: 60, out: 72 }),
  ...forms
    .filter(({ format }) => format === 'int8' || format === 'int4')
    .slice(0, 7)
    .map(
      (format): Case => ({
        title: `${formatName(format)} int8, rows of zeros and of one spike`,
        bound: 'sum',
        k: 128,
        async build(k) {
          const data = new Float32Array(3 * 128);
          data[128 + 77] = -1e4;
          data.fill(1e-20, 256, 300);
          const weight = await k.weight({ in: 128, out: 60, format });
          k.output('y', k.g.linear(k.input('x', 'f32', ['tokens', 128], data), weight, { mode: 'int8' }));
        },
      }),
    ),
  ...([{ format: 'f32' }, { format: 'f16' }, bf16] as const).map(
    (format): Case => ({
      title: `${formatName(format)} exact, the largest floats`,
      bound: 'sum',
      k: 128,
      async build(k) {
        const data = new Float32Array(3 * 128);
        data.set([3.4028234e38, 3.396e38, 3.389e38], 7);
        data.set([-3.4028234e38, 1e38], 128 + 64);
        data.fill(-3.4e38, 256 + 126);
        const weight = await k.weight({ in: 128, out: 60, format });
        k.output('y', k.g.linear(k.input('x', 'f32', ['tokens', 128], data), weight, { mode: 'exact' }));
      },
    }),
  ),
];

interface Grouped {
  experts: number;
  topK: number;
  tokens: number;
  format: WeightFormat;
  mode: Mode;
  /** [tokens · topK]; default: random, distinct within a token. */
  ids?: (k: Kit) => Int32Array;
  activation?: Activation;
  bias?: boolean;
  gather?: boolean;
  groupOf?: Int32Array;
  coalesce?: boolean;
  ragged?: boolean;
}

/** `topK` distinct experts for each token. */
function distinctIds(k: Kit, tokens: number, topK: number, experts: number): Int32Array {
  const ids = new Int32Array(tokens * topK);
  for (let t = 0; t < tokens; t++) ids.set(k.order(experts).subarray(0, topK), t * topK);
  return ids;
}

function grouped(title: string, options: Grouped): Case {
  const { experts, topK, tokens, format, mode, activation = 'none', bias = false, gather = true } = options;
  const { groupOf, coalesce = true, ragged = false } = options;
  const gated = activation === 'swiglu' || activation === 'geglu';
  const width = 60;
  const out = 72;
  return {
    title: `grouped, ${formatName(format)} ${mode}, ${title}`,
    bound: activation === 'none' ? 'sum' : 'chain',
    k: width,
    async build(k) {
      const slots = groupOf ? Math.max(...groupOf) + 1 : experts;
      const inOf = ragged
        ? Array.from({ length: slots }, (_, s) => (s % 3 === 0 ? width : 2 * (1 + (s % 29))))
        : undefined;
      const outOf = ragged
        ? Array.from({ length: slots }, (_, s) => (s % 4 === 1 ? out : 2 * (1 + (s % 35))))
        : undefined;
      const ids = k.input('ids', 'i32', ['tokens', topK], options.ids?.(k) ?? distinctIds(k, tokens, topK, experts));
      const gates = k.input('gates', 'f32', ['tokens', topK], k.normal(tokens * topK));
      const routing = k.g.route(undefined, { experts, topK, ids, gates, groupOf, coalesce });
      const weight = await k.weight({
        in: width,
        out,
        slots,
        gated,
        format,
        bias,
        ...(inOf && !gated && { inOf }),
        ...(outOf && { outOf }),
      });
      const x = gather
        ? k.x(tokens, width)
        : k.input('x', 'f32', [{ factor: topK, symbol: 'tokens' }, width], k.normal(tokens * topK * width));
      k.output('y', k.g.linear(x, weight, { routing, gather, mode, activation }), rowsBelow('offsets'));
      k.output('offsets', routing.offsets);
    },
  };
}

const exact = { mode: 'exact' } as const;
const int8 = { mode: 'int8' } as const;
const hot = (experts: number, tokens: number) => () => new Int32Array(tokens).fill(experts - 1);

const groupedCases: readonly Case[] = [
  ...forms.flatMap((format) =>
    modesOf(format).map((mode) => grouped('60 experts, top 4', { experts: 60, topK: 4, tokens: 9, format, mode })),
  ),
  ...[bf16, int4].flatMap((format) =>
    modesOf(format).flatMap((mode) => [
      grouped('257 experts, top 8', { experts: 257, topK: 8, tokens: 11, format, mode }),
      grouped('72 experts, one hot', { experts: 72, topK: 1, tokens: 60, format, mode, ids: hot(72, 60) }),
      grouped('some widths differ', { experts: 60, topK: 2, tokens: 33, format, mode, ragged: true, bias: true }),
      grouped('gated, widths differ', {
        experts: 5,
        topK: 2,
        tokens: 33,
        format,
        mode,
        ragged: true,
        activation: 'swiglu',
      }),
      grouped('rows of their own', { experts: 60, topK: 2, tokens: 17, format, mode, gather: false }),
      grouped('swiglu with bias', { experts: 60, topK: 2, tokens: 17, format, mode, activation: 'swiglu', bias: true }),
    ]),
  ),
  grouped('geglu', { experts: 6, topK: 2, tokens: 40, format: { format: 'f32' }, ...exact, activation: 'geglu' }),
  grouped('relu', { experts: 6, topK: 2, tokens: 40, format: { format: 'int8' }, ...int8, activation: 'relu' }),
  grouped('nothing routed', {
    experts: 4,
    topK: 2,
    tokens: 5,
    format: int4,
    ...int8,
    ids: () => new Int32Array(10).fill(-1),
  }),
  grouped('some −1', {
    experts: 4,
    topK: 2,
    tokens: 3,
    format: bf16,
    ...exact,
    ids: () => Int32Array.of(3, -1, -1, -1, 0, 3),
  }),
  grouped('no tokens', { experts: 60, topK: 4, tokens: 0, format: int4, ...int8 }),
  grouped('merged, coalesced', {
    experts: 8,
    topK: 4,
    tokens: 21,
    format: int4,
    ...int8,
    groupOf: Int32Array.of(0, 1, 0, 2, 2, 1, 0, 2),
  }),
  grouped('merged, apart', {
    experts: 8,
    topK: 4,
    tokens: 21,
    format: bf16,
    ...exact,
    coalesce: false,
    groupOf: Int32Array.of(0, 1, 0, 2, 2, 1, 0, 2),
  }),
];

export const linear: readonly Case[] = [...denseCases, ...groupedCases];
