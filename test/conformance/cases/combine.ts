/** combine. */
import type { Dtype } from '../../../lib/index.ts';
import { type Case, fromDtype, type Kit, type Live } from '../kit.ts';
import { merged } from './routing.ts';
import { someNone } from './routing-given.ts';

interface Sum {
  tokens: number;
  width: number;
  topK?: number;
  dtype?: Dtype;
  y?: Dtype;
  shared?: boolean;
  gated?: boolean;
  residual?: boolean;
  groupOf?: Int32Array;
  ids?: (k: Kit) => Int32Array;
}

function sum(title: string, options: Sum): Case {
  const { tokens, width, topK = 3, dtype = 'f32', y, shared, gated, residual, groupOf, ids } = options;
  return {
    title,
    bound: gated ? 'transcendental' : 'sum',
    k: topK,
    build(k) {
      const chosen = ids && k.input('chosen', 'i32', ['tokens', topK], ids(k));
      const logits = chosen ? undefined : k.x(tokens, 9, 'f32', 'logits');
      const gates = chosen && k.x(tokens, topK, 'f32', 'given');
      const routing = k.g.route(logits, { experts: 9, topK, groupOf, ids: chosen, gates });
      const rows = k.input('rows', dtype, [{ factor: topK, symbol: 'tokens' }, width], k.normal(tokens * topK * width));
      const result = k.g.combine(rows, routing, {
        shared: shared ? k.x(tokens, width, dtype, 'shared') : undefined,
        sharedGate: gated ? k.x(tokens, 1, dtype, 'sharedGate') : undefined,
        residual: residual ? k.x(tokens, width, dtype, 'residual') : undefined,
        ...(y && { dtype: y }),
      });
      k.output('y', result);
    },
  };
}

/** Rows that some choice names in the i32 output `name`. */
const rowsNamed =
  (name: string): Live =>
  (read) => {
    const named = new Set(fromDtype(read.get(name) ?? new Int32Array(0), 'i32') as Int32Array);
    return (row) => named.has(row);
  };

export const combine: readonly Case[] = [
  sum('f32, width 511', { tokens: 17, width: 511 }),
  sum('bf16, with all terms', { tokens: 17, width: 72, dtype: 'bf16', shared: true, gated: true, residual: true }),
  sum('f16 rows to f32', { tokens: 5, width: 257, dtype: 'f16', y: 'f32', residual: true }),
  sum('a shared expert without a gate', { tokens: 5, width: 60, shared: true }),
  sum('a shared expert with a gate', { tokens: 5, width: 60, shared: true, gated: true }),
  sum('top 1', { tokens: 60, width: 1, topK: 1 }),
  sum('coalesced rows counted once', { tokens: 21, width: 60, groupOf: merged(9, 2) }),
  sum('tokens without experts', { tokens: 33, width: 60, ids: someNone, residual: true }),
  sum('no tokens', { tokens: 0, width: 60, residual: true }),
  {
    title: 'onto the rows of a merged routing',
    bound: 'sum',
    k: 4,
    build(k) {
      const routing = k.g.route(k.x(13, 12, 'f32', 'logits'), { experts: 12, topK: 4 });
      const onto = k.g.regroup(routing, merged(12, 3), 3);
      const rows = k.input('rows', 'f32', [{ factor: 4, symbol: 'tokens' }, 72], k.normal(13 * 4 * 72));
      k.output('y', k.g.combine(rows, routing, { onto }), rowsNamed('rowOf'));
      k.output('rowOf', onto.rowOf);
    },
  },
];
