/** linear with rows enough for tiles of a matrix product: every pair of activations and weights, tiles that are partly full. */
import { type Activation, type Dtype, formatName, type WeightFormat } from '../../../lib/index.ts';
import type { Case } from '../kit.ts';
import { rowsBelow } from '../kit.ts';

type Mode = 'exact' | 'int8';

const forms: readonly WeightFormat[] = [
  { format: 'int4', groupSize: 32 },
  { format: 'int4', groupSize: 64, offset: false },
  { format: 'int4', groupSize: 128, scale: 'f32' },
  { format: 'int4', groupSize: 'channel' },
  { format: 'int8', groupSize: 64, offset: true },
  { format: 'int8' },
  { format: 'bf16' },
  { format: 'f16' },
  { format: 'f32' },
];

const modesOf = ({ format }: WeightFormat): readonly Mode[] =>
  format === 'int8' || format === 'int4' ? ['exact', 'int8'] : ['exact'];

interface Dense {
  tokens?: number;
  in?: number;
  out?: number;
  x?: Dtype;
  activation?: Activation;
  bias?: boolean;
  residual?: boolean;
}

function dense(title: string, format: WeightFormat, mode: Mode, options: Dense): Case {
  const { tokens = 130, in: width = 192, out = 136, x: dtype = 'bf16', activation = 'none' } = options;
  const gated = activation === 'swiglu' || activation === 'geglu';
  return {
    title: `tiles, ${formatName(format)} ${mode}, ${title}`,
    bound: activation === 'none' ? 'sum' : 'chain',
    k: width,
    async build(k) {
      const weight = await k.weight({
        in: width,
        out: gated ? 2 * out : out,
        gated,
        format,
        bias: options.bias ?? false,
      });
      const x = k.x(tokens, width, dtype);
      const residual = options.residual ? k.x(tokens, out, 'f32', 'residual') : undefined;
      k.output('y', k.g.linear(x, weight, { mode, activation, residual, dtype: 'f32' }));
    },
  };
}

interface Grouped {
  activation?: Activation;
  gather?: boolean;
  ragged?: boolean;
}

/** 5 experts of which one has most rows, one none, and tiles of the others are partly full. */
function grouped(title: string, format: WeightFormat, mode: Mode, options: Grouped): Case {
  const { activation = 'none', gather = true, ragged = false } = options;
  const gated = activation === 'swiglu';
  const counts = [150, 0, 17, 1, 64];
  const [tokens, width, out] = [116, 192, 72];
  return {
    title: `tiles, grouped, ${formatName(format)} ${mode}, ${title}`,
    bound: activation === 'none' ? 'sum' : 'chain',
    k: width,
    async build(k) {
      const ids = k.input('ids', 'i32', ['tokens', 2], spread(counts));
      const gates = k.input('gates', 'f32', ['tokens', 2], k.normal(2 * tokens));
      const routing = k.g.route(undefined, { experts: counts.length, topK: 2, ids, gates });
      const weight = await k.weight({
        in: width,
        out: gated ? 2 * out : out,
        slots: counts.length,
        gated,
        format,
        bias: true,
        ...(ragged && { inOf: [192, 1, 70, 64, 131], outOf: gated ? [144, 2, 60, 34, 18] : [72, 1, 60, 33, 17] }),
      });
      const x = gather
        ? k.x(tokens, width, 'bf16')
        : k.input('x', 'bf16', [{ factor: 2, symbol: 'tokens' }, width], k.normal(2 * tokens * width));
      k.output('y', k.g.linear(x, weight, { routing, gather, mode, activation, dtype: 'f32' }), rowsBelow('offsets'));
      k.output('offsets', routing.offsets);
    },
  };
}

/** Ids that give each expert its count; an expert that a token would have twice is left out of it (−1). */
function spread(counts: readonly number[]): Int32Array {
  const all = counts.flatMap((count, expert) => Array.from({ length: count }, () => expert));
  const half = all.length / 2;
  return Int32Array.from({ length: all.length }, (_, i) => {
    const [first, second] = [all[i >> 1], all[half + (i >> 1)]];
    return (i % 2 === 0 ? first : second === first ? -1 : second) as number;
  });
}

const int4: WeightFormat = { format: 'int4', groupSize: 64 };
const bf16: WeightFormat = { format: 'bf16' };

export const tiles: readonly Case[] = [
  ...forms.flatMap((format) =>
    modesOf(format).flatMap((mode) =>
      (['bf16', 'f16', 'f32'] as const).flatMap((x) => [
        dense(`${x} 130 × 192 → 136`, format, mode, { x }),
        dense(`${x} 30 × 192 → 136`, format, mode, { x, tokens: 30 }),
      ]),
    ),
  ),
  ...[int4, bf16].flatMap((format) =>
    modesOf(format).flatMap((mode) => [
      dense('gated, bias, residual', format, mode, {
        tokens: 70,
        out: 100,
        activation: 'swiglu',
        bias: true,
        residual: true,
      }),
      dense('ragged widths', format, mode, { tokens: 67, in: 267, out: 131 }),
      dense('17 rows', format, mode, { tokens: 17, in: 511, out: 7 }),
      dense('one input more than a tile', format, mode, { tokens: 129, in: 65, out: 129 }),
      grouped('ragged counts', format, mode, {}),
      grouped('swiglu', format, mode, { activation: 'swiglu' }),
      grouped('rows of their own', format, mode, { gather: false }),
      grouped('widths differ', format, mode, { ragged: true }),
      grouped('gated, widths differ', format, mode, { ragged: true, activation: 'swiglu' }),
    ]),
  ),
];
