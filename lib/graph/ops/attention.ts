import { requireInteger, requireObject } from '../../arguments.ts';
import type { Assembly } from '../assembly.ts';
import type { Value } from '../value.ts';

export interface AttentionOptions {
  /** float [T, heads·D]. */
  q: Value;
  /** float [T, kvHeads·D]; stored in the cache first. */
  k: Value;
  v: Value;
  /** i32 [T], of each token in its sequence. */
  positions: Value;
  /** i32 [T], the sequence of each token. */
  sequence: Value;
  /** i32 [sequences], keys in the cache after this run. */
  lengths: Value;
  /** i32 [sequences·P], the pages of each sequence. */
  pages: Value;
  /** State float [pages, page size, kvHeads·D]; or i8 [pages, page size, kvHeads·(D + 4)], codes and then an f32 step a head. */
  kCache: Value;
  vCache: Value;
  heads: number;
  kvHeads: number;
  /** Of the scores. Default 1/√D. */
  scale?: number | undefined;
  /** Default true. */
  causal?: boolean | undefined;
  /** Keys a token sees, itself included; 0: all. Default 0. */
  window?: number | undefined;
  /** cap · tanh(score / cap); 0: none. Default 0. */
  softCap?: number | undefined;
}

/** Ragged-batch attention over a paged cache → float [T, heads·D]. A token that sees no key gets zeros. */
export function attention(g: Assembly, options: AttentionOptions): Value {
  const { q, k, v, positions, sequence, lengths, pages, kCache, vCache, heads, kvHeads } = requireObject(options);
  requireInteger(heads, 'heads');
  g.idOf(q, 'q');
  const { scale = 1 / Math.sqrt(Number(q.shape[1]) / heads), causal = true, window = 0, softCap = 0 } = options;
  const operands = { q, k, v, positions, sequence, lengths, pages, kCache, vCache };
  return g.single('attention', operands, { heads, kvHeads, causal, window, scale, softCap });
}
