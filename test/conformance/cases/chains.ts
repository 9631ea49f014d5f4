/** linear → linear whose activations are quantized: what a GPU hands on as codes. */
import { type Activation, type Dtype, formatName, type IntegerFormat, type WeightFormat } from '../../../lib/index.ts';
import type { Parts } from '../bank-data.ts';
import type { Case, Kit } from '../kit.ts';
import { rowsBelow } from '../kit.ts';

export interface Chain {
  readonly title: string;
  readonly tokens: number;
  /** Default: one dense matrix. */
  readonly experts?: number;
  /** Of the first linear; default int4, bf16 under spikes. */
  readonly first?: Parts;
  /** Of the second. */
  readonly second: Parts;
  /** Between the two; default bf16. */
  readonly dtype?: Dtype;
  /** Of the first; default swiglu; relu under spikes. */
  readonly activation?: Activation;
  readonly ragged?: boolean;
  readonly residual?: boolean;
  /** Of a third linear behind a dense second one. */
  readonly third?: Parts;
  /** What lies before a quantization is rounded, so that two devices may find other codes for it, whatever x is. */
  readonly rounded?: boolean;
  /** A row of x has a NaN. */
  readonly spoiled?: boolean;
  /** Columns between the two. */
  readonly width?: number;
}

const row: IntegerFormat = { format: 'int8' };
const grouped: IntegerFormat = { format: 'int4', groupSize: 128 };
const dual: IntegerFormat = { format: 'int4', groupSize: 128, dual: true };
const formats: readonly IntegerFormat[] = [row, grouped, dual];
const [topK, inputs, outputs] = [2, 192, 136];

/** Some experts have no rows. */
function idsOf(k: Kit, tokens: number, experts: number): Int32Array {
  const ids = new Int32Array(tokens * topK);
  for (let t = 0; t < tokens; t++) ids.set(k.order(experts - 2).subarray(0, topK), t * topK);
  return ids;
}

interface Build {
  /** What is between the two is an output too. */
  readonly exposed: boolean;
  /** Each row of x is one power of two, so that the first product is exact and every device finds the same codes. */
  readonly spikes: boolean;
}

export async function buildChain(k: Kit, chain: Chain, { exposed, spikes }: Build): Promise<void> {
  const { tokens, experts = 1, second, dtype = 'bf16', ragged = false, width = 264, residual = false } = chain;
  const { first = { format: { format: spikes ? 'bf16' : 'int4' } } } = chain;
  const activation = spikes ? 'relu' : (chain.activation ?? 'swiglu');
  const gated = activation === 'swiglu' || activation === 'geglu';
  const widths = ragged ? Array.from({ length: experts }, (_, s) => (s % 3 === 0 ? width : 8 * (s + 1))) : undefined;
  const outOf = widths?.map((own) => (gated ? 2 * own : own));
  const sizes = { slots: experts, gated, ...(outOf && { outOf }) };
  const up = await k.weight({ in: inputs, out: gated ? 2 * width : width, ...sizes, ...first });
  const down = await k.weight({ in: width, out: outputs, slots: experts, ...(widths && { inOf: widths }), ...second });
  const data = spikes ? new Float32Array(tokens * inputs) : k.normal(tokens * inputs);
  if (spikes) for (let t = 0; t < tokens; t++) data[t * inputs + ((t * 37 + 5) % inputs)] = (-1) ** t * 2 ** (t % 7);
  if (chain.spoiled) data[inputs + 3] = Number.NaN;
  const x = k.input('x', 'bf16', ['tokens', inputs], data);
  const options = { activation, mode: 'exact', dtype } as const;
  const last = { mode: 'int8', dtype: 'f32' } as const;
  if (experts === 1) {
    const added = residual ? k.x(tokens, width, dtype, 'residual') : undefined;
    const hidden = k.g.linear(x, up, { ...options, residual: added });
    if (exposed) k.output('hidden', hidden);
    const y = k.g.linear(hidden, down, last);
    const further = chain.third && (await k.weight({ in: outputs, out: outputs, ...chain.third }));
    k.output('y', further ? k.g.linear(y, further, last) : y);
    return;
  }
  const ids = k.input('ids', 'i32', ['tokens', topK], idsOf(k, tokens, experts));
  const gates = k.input('gates', 'f32', ['tokens', topK], k.normal(tokens * topK));
  const routing = k.g.route(undefined, { experts, topK, ids, gates });
  const hidden = k.g.linear(x, up, { ...options, routing });
  if (exposed) k.output('hidden', hidden, rowsBelow('offsets'));
  k.output('y', k.g.linear(hidden, down, { ...last, routing, gather: false }), rowsBelow('offsets'));
  k.output('offsets', routing.offsets);
}

const named = (format: WeightFormat): string =>
  formatName(format) + ('dual' in format && format.dual ? ', dual-grained' : '');

/** All of them are handed on as codes. */
export const handedOn: readonly Chain[] = [
  ...formats.flatMap((format): Chain[] => [
    ...[0, 1, 5, 40, 130].map(
      (tokens): Chain => ({ title: `${named(format)}, ${tokens} rows`, tokens, second: { format } }),
    ),
    { title: `${named(format)}, 130 rows in f32`, tokens: 130, second: { format }, dtype: 'f32' },
    { title: `${named(format)}, 3 tokens of 9 experts`, tokens: 3, experts: 9, second: { format } },
    {
      title: `${named(format)}, 150 tokens of 5 experts, f32`,
      tokens: 150,
      experts: 5,
      second: { format },
      dtype: 'f32',
    },
    { title: `${named(format)}, widths differ`, tokens: 40, experts: 7, second: { format }, ragged: true },
  ]),
  {
    title: 'not gated, residual, f16',
    tokens: 5,
    second: { format: row },
    activation: 'gelu',
    residual: true,
    dtype: 'f16',
  },
  { title: 'three in a row', tokens: 5, second: { format: grouped }, third: { format: row }, rounded: true },
  { title: 'a row of NaN', tokens: 5, second: { format: grouped }, spoiled: true },
  { title: 'int4:32, 1200 columns', tokens: 2, second: { format: { format: 'int4' } }, width: 1200 },
  {
    title: 'from a low rank over a base, to kept rows beside a base',
    tokens: 40,
    first: { format: { format: 'bf16' }, lowRank: { rank: 8 } },
    second: { format: grouped, rows: { count: 11, format: grouped } },
    rounded: true,
  },
  {
    title: 'from 2:4, to 2:4',
    tokens: 5,
    first: { sparse: { n: 2, m: 4, format: { format: 'bf16' } } },
    second: { sparse: { n: 2, m: 4, format: row } },
  },
  {
    title: 'from 1:8, to int8',
    tokens: 40,
    first: { sparse: { n: 1, m: 8, format: { format: 'bf16' } } },
    second: { format: row },
  },
];

/** Reasons to keep the floats. */
export const keptApart: readonly Chain[] = [
  { title: 'a low rank reads floats', tokens: 5, second: { format: row, lowRank: { rank: 8 } } },
  { title: 'two widths of blocks', tokens: 5, second: { format: row, rows: { count: 11, format: grouped } } },
  { title: 'rows out of line', tokens: 5, second: { format: row }, width: 262 },
  { title: 'no room for the padding', tokens: 5, second: { format: row }, width: 20 },
];

const chainsAndForms: readonly { chain: Chain; exposed: boolean }[] = [
  ...[...handedOn, ...keptApart].filter(({ rounded }) => !rounded).map((chain) => ({ chain, exposed: false })),
  ...formats.map((format) => ({
    chain: { title: `${named(format)}, 5 rows that are read elsewhere`, tokens: 5, second: { format } },
    exposed: true,
  })),
];

export const chains: readonly Case[] = chainsAndForms.map(({ chain, exposed }) => ({
  title: `linear → linear int8, ${chain.title}`,
  bound: 'chain',
  k: chain.width ?? 264,
  build: (k) => buildChain(k, chain, { exposed, spikes: true }),
}));
