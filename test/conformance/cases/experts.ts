/** The experts of a layer, made of route, linear and combine. */
import { type Dtype, type ExpertKind, formatName, type WeightFormat } from '../../../lib/index.ts';
import type { Parts } from '../bank-data.ts';
import type { Case } from '../kit.ts';
import { merged } from './routing.ts';

interface Layer {
  kind: ExpertKind;
  format: WeightFormat;
  mode: 'exact' | 'int8';
  experts?: number;
  tokens?: number;
  groupOf?: Int32Array;
  bias?: boolean;
  shared?: boolean;
  dtype?: Dtype;
  /** Default: a base of the format alone. */
  parts?: Parts;
}

function layer(title: string, options: Layer): Case {
  const {
    kind,
    format,
    mode,
    experts = 60,
    tokens = 9,
    groupOf,
    bias = false,
    shared = false,
    dtype = 'f32',
  } = options;
  return {
    title: `experts: ${kind}, ${formatName(format)} ${mode}, ${title}`,
    bound: 'chain',
    k: 72,
    async build(k) {
      const x = k.x(tokens, 60, dtype);
      const routing = k.g.route(k.x(tokens, experts, 'f32', 'logits'), { experts, topK: 4, renormalize: true });
      const slots = groupOf ? Math.max(...groupOf) + 1 : experts;
      const bank = await k.bank(kind, slots, 60, 72, options.parts ?? { format }, {
        bias,
        ...(groupOf && { groupOf }),
      });
      const extras = shared
        ? { shared: k.x(tokens, 60, dtype, 'shared'), sharedGate: k.x(tokens, 1, dtype, 'sharedGate'), residual: x }
        : {};
      k.output('y', k.g.experts(x, routing, bank, { mode, ...extras }));
    },
  };
}

/** Filed under combine: what a layer of them writes at its end. */
export const experts: readonly Case[] = [
  layer('f32', { kind: 'swiglu', format: { format: 'f32' }, mode: 'exact' }),
  layer('shared, residual', { kind: 'swiglu', format: { format: 'bf16' }, mode: 'exact', shared: true, dtype: 'bf16' }),
  layer('one token of 257 experts', {
    kind: 'geglu',
    format: { format: 'f32' },
    mode: 'exact',
    experts: 257,
    tokens: 1,
  }),
  layer('biases', { kind: 'gelu', format: { format: 'f16' }, mode: 'exact', bias: true }),
  layer('biases', { kind: 'relu', format: { format: 'int4' }, mode: 'exact', bias: true }),
  layer('merged', { kind: 'swiglu', format: { format: 'f32' }, mode: 'exact', groupOf: merged(60, 9), tokens: 33 }),
  layer('merged', { kind: 'silu', format: { format: 'int4' }, mode: 'exact', groupOf: merged(60, 9), tokens: 33 }),
  layer('with low rank and kept rows, no base, merged', {
    kind: 'swiglu',
    format: { format: 'bf16' },
    mode: 'exact',
    groupOf: merged(60, 9),
    tokens: 33,
    parts: { lowRank: { rank: 8 }, rows: { count: 11, format: { format: 'bf16' } } },
  }),
  layer('a low rank each over 9 bases', {
    kind: 'swiglu',
    format: { format: 'int4' },
    mode: 'int8',
    tokens: 33,
    parts: { format: { format: 'int4' }, baseOf: [...merged(60, 9)], lowRank: { rank: 8 } },
  }),
  layer('2:4', {
    kind: 'gelu',
    format: { format: 'int8' },
    mode: 'int8',
    parts: { sparse: { n: 2, m: 4, format: { format: 'int8' } } },
  }),
  layer('no tokens', { kind: 'gelu_tanh', format: { format: 'int8' }, mode: 'int8', tokens: 0 }),
];
