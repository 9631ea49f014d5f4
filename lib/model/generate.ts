/** Continues a prompt token by token. */

import { requireInteger, requireObject, requireSignal } from '../arguments.ts';
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import { MoeError } from '../errors.ts';
import type { CachePool } from './cache-pool.ts';
import { maximumTokens, type Runner } from './runner.ts';
import { createSampler, type SamplingOptions } from './sampling.ts';

export interface GenerateOptions extends SamplingOptions {
  /** Tokens to generate at most. Default: what the context leaves. */
  maxTokens?: number | undefined;
  /** Whether an end-of-text id ends it; that id is the last one given. Default true. */
  stopAtEos?: boolean | undefined;
  signal?: AbortSignal | undefined;
}

export interface GeneratedToken {
  /** What this token adds to the text; never half a character, so it may be empty, as for special tokens, ids that the tokenizer lacks, and without one. */
  readonly text: string;
  readonly id: number;
}

/** The cache starts with room for so many new tokens and grows from there. */
const firstRoom = 256;

/** Throws INVALID_ARGUMENT, CONTEXT_EXCEEDED. */
function generateLimit(promptTokens: number, context: number, maxTokens: number | undefined): number {
  if (promptTokens === 0) {
    throw new MoeError('INVALID_ARGUMENT', {
      argument: 'prompt',
      expected: 'at least one token',
      received: 'an empty prompt',
    });
  }
  if (maxTokens !== undefined) requireInteger(maxTokens, 'maxTokens', 0);
  const limit = maxTokens ?? context - promptTokens;
  if (promptTokens + Math.max(limit, 0) > context || limit < 0) {
    throw new MoeError('CONTEXT_EXCEEDED', {
      argument: maxTokens === undefined ? 'prompt' : 'maxTokens',
      expected: `prompt and new tokens within ${context}`,
      received: maxTokens === undefined ? `a prompt of ${promptTokens}` : `${promptTokens} + ${maxTokens}`,
    });
  }
  return limit;
}

export async function* generateTokens(
  runner: Runner,
  pool: CachePool,
  tokenizer: Tokenizer | undefined,
  eosIds: ReadonlySet<number>,
  prompt: Int32Array,
  options: GenerateOptions,
): AsyncGenerator<GeneratedToken, void, undefined> {
  const { signal, stopAtEos = true } = requireObject(options);
  const limit = generateLimit(prompt.length, runner.config.context, options.maxTokens);
  const sample = createSampler(options);
  requireSignal(signal);
  if (limit === 0) return;
  const text = tokenizer?.decodeStream({ skipSpecialTokens: true });
  const cache = pool.borrow(prompt.length + Math.min(limit, firstRoom));
  const sequence = cache.sequence();
  const context = { cache, signal };
  try {
    const logits = new Float32Array(runner.config.vocabulary);
    const lastFull = Math.floor((prompt.length - 1) / maximumTokens) * maximumTokens;
    for (let at = 0; at < lastFull; at += maximumTokens) {
      const ids = prompt.subarray(at, at + maximumTokens);
      await runner.rows([{ sequence, ids }], new Int32Array(0), new Float32Array(0), context);
    }
    let next = prompt.subarray(lastFull);
    for (let count = 1; count <= limit; count++) {
      await runner.rows([{ sequence, ids: next }], Int32Array.of(next.length - 1), logits, context);
      const id = sample(logits);
      const last = count === limit || (stopAtEos && eosIds.has(id));
      const piece = (tokenizer?.has(id) ? (text?.push(id) ?? '') : '') + ((last && text?.end()) || '');
      yield { text: piece, id };
      if (last) return;
      next = Int32Array.of(id);
    }
  } finally {
    cache.release(sequence);
    pool.giveBack(cache);
  }
}
