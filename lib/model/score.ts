/** Log-likelihoods of continuations of one prompt. What they have in common runs once, on cache pages that all of them read. */
import { invalid, requireCallback, requireObject, requireSignal } from '../arguments.ts';
import type { TokenIds } from '../checkpoint/tokenizer.ts';
import { MoeError } from '../errors.ts';
import type { CachePool } from './cache-pool.ts';
import { type KvCache, pageSize, pagesFor, type Sequence } from './kv-cache.ts';
import { buckets, maximumTokens, type RunContext, type Runner } from './runner.ts';

export interface ContinuationOptions {
  signal?: AbortSignal | undefined;
  /** Continuations scored so far. */
  onProgress?:
    | ((progress: { readonly phase: 'score'; readonly done: number; readonly total: number }) => void)
    | undefined;
}

/** How likely one continuation is after the prompt. */
export interface ContinuationScore {
  /** Sum of `perToken`, in nats. */
  readonly logLikelihood: number;
  /** Scored tokens. */
  readonly tokens: number;
  /** i32 [tokens]: what was scored. */
  readonly ids: Int32Array;
  /** f64 [tokens]: log-probability of each token given all before it, in nats. */
  readonly perToken: Float64Array;
  /** Whether every token is the most likely one at its place: greedy decoding would give this continuation. */
  readonly greedy: boolean;
}

/** Prompt and continuation as one text; tokens from `begin` on are scored. */
export interface JoinedText {
  readonly ids: Int32Array;
  /** 1 … ids.length − 1. */
  readonly begin: number;
}

/** How texts and ids of the caller become checked ids. */
export interface TextReader {
  encode(text: string, options?: { addSpecialTokens: boolean }): Int32Array;
  checked(ids: TokenIds, argument: string): Int32Array;
}

/**
 * Two texts are encoded together, as a tokenizer may join their ends into one token; what the encoded prompt and the whole begin with
 * alike is then the prompt, the rest is scored. Where one of them is given as ids, ids are appended to ids. Throws INVALID_ARGUMENT,
 * CONTEXT_EXCEEDED.
 */
export function joinContinuations(
  reader: TextReader,
  context: number,
  prompt: string | TokenIds,
  continuations: readonly (string | TokenIds)[],
): JoinedText[] {
  if (!Array.isArray(continuations)) throw invalid('continuations', 'a list', continuations);
  const promptIds = typeof prompt === 'string' ? reader.encode(prompt) : reader.checked(prompt, 'prompt');
  return continuations.map((continuation: string | TokenIds, index) => {
    const argument = `continuations[${index}]`;
    const joined = join(reader, prompt, promptIds, continuation, argument);
    const { ids, begin } = joined;
    if (begin === 0) throw emptyText('prompt', 'at least one token that no continuation changes');
    if (begin === ids.length) throw emptyText(argument, 'at least one token');
    if (ids.length > context) {
      const received = `${begin} + ${ids.length - begin}`;
      throw new MoeError('CONTEXT_EXCEEDED', {
        argument,
        expected: `with its prompt at most ${context} tokens`,
        received,
      });
    }
    return joined;
  });
}

function join(
  reader: TextReader,
  prompt: string | TokenIds,
  promptIds: Int32Array,
  continuation: string | TokenIds,
  argument: string,
): JoinedText {
  if (typeof prompt === 'string' && typeof continuation === 'string') {
    const ids = reader.encode(prompt + continuation);
    return { ids: reader.checked(ids, argument), begin: commonLength(promptIds, ids) };
  }
  const ids =
    typeof continuation === 'string'
      ? reader.encode(continuation, { addSpecialTokens: false })
      : reader.checked(continuation, argument);
  return { ids: reader.checked(Int32Array.of(...promptIds, ...ids), argument), begin: promptIds.length };
}

function emptyText(argument: string, expected: string): MoeError {
  return new MoeError('INVALID_ARGUMENT', { argument, expected, received: 'none' });
}

function commonLength(a: Int32Array, b: Int32Array): number {
  const end = Math.min(a.length, b.length);
  for (let i = 0; i < end; i++) if (a[i] !== b[i]) return i;
  return end;
}

/** Scores each text on its own; the order is that of `texts`. */
export async function scoreContinuations(
  runner: Runner,
  pool: CachePool,
  texts: readonly JoinedText[],
  options: ContinuationOptions,
): Promise<ContinuationScore[]> {
  const { signal, onProgress } = requireObject(options);
  requireSignal(signal);
  requireCallback(onProgress, 'onProgress');
  const [first] = texts;
  if (!first) return [];
  const shared = sharedTokens(texts);
  const batches = packTexts(texts, shared, runner.config);
  const own = batches.map((batch) => batch.reduce((sum, { ids }) => sum + pagesFor(ids.length - shared), 0));
  const cache = pool.borrow(shared + Math.max(...own) * pageSize);
  const prompt = cache.sequence();
  const scores: ContinuationScore[] = [];
  try {
    for (let at = 0; at < shared; at += maximumTokens) {
      const ids = first.ids.subarray(at, Math.min(shared, at + maximumTokens));
      await runner.rows([{ sequence: prompt, ids }], new Int32Array(0), new Float32Array(0), { cache, signal });
    }
    for (const batch of batches) {
      scores.push(...(await scoreBatch(runner, batch, prompt, { cache, signal })));
      onProgress?.({ phase: 'score', done: scores.length, total: texts.length });
    }
  } finally {
    cache.release(prompt);
    pool.giveBack(cache);
  }
  return scores;
}

/** Tokens in whole pages that all texts begin with, short of the last one before what is scored: its logits score the first token. */
function sharedTokens(texts: readonly JoinedText[]): number {
  const first = texts[0] as JoinedText;
  const common = texts.reduce(
    (least, { ids, begin }) => Math.min(least, begin - 1, commonLength(first.ids, ids)),
    Infinity,
  );
  return Math.floor(common / pageSize) * pageSize;
}

/** Elements of the logits that a run gives at most. */
const mostLogits = 2 ** 24;

function runTokens(vocabulary: number): number {
  return Math.max(1, Math.min(maximumTokens, Math.floor(mostLogits / vocabulary)));
}

/** Packs consecutive texts into runs: as many as a run's tokens and its page table take, a longer text alone. */
function packTexts(
  texts: readonly JoinedText[],
  shared: number,
  { context, vocabulary }: Runner['config'],
): JoinedText[][] {
  const batches: JoinedText[][] = [];
  let [tokens, pages] = [0, 0];
  for (const text of texts) {
    const batch = batches.at(-1);
    const own = text.ids.length - 1 - shared;
    const [allTokens, allPages] = [tokens + own, Math.max(pages, pagesFor(text.ids.length - 1))];
    const bucket = buckets.find((size) => allTokens <= size) ?? maximumTokens;
    const fits =
      allTokens <= runTokens(vocabulary) && ((batch?.length ?? 0) + 1) * allPages <= pagesFor(context) + bucket;
    if (batch && fits) {
      batch.push(text);
      [tokens, pages] = [allTokens, allPages];
    } else {
      batches.push([text]);
      [tokens, pages] = [own, pagesFor(text.ids.length - 1)];
    }
  }
  return batches;
}

async function scoreBatch(
  runner: Runner,
  batch: readonly JoinedText[],
  prompt: Sequence,
  context: RunContext,
): Promise<ContinuationScore[]> {
  const { vocabulary } = runner.config;
  const { length: shared } = prompt;
  const branches = batch.map((text) => ({ text, sequence: branchOf(prompt), perToken: [] as number[], greedy: true }));
  const longest = Math.max(...batch.map(({ ids }) => ids.length - 1 - shared));
  // Only a text that is alone is longer than a run.
  const step = batch.length === 1 ? runTokens(vocabulary) : longest;
  try {
    for (let at = shared; at < shared + longest; at += step) {
      const chunks = branches.map(({ text: { ids }, sequence }) => ({
        sequence,
        ids: ids.subarray(at, Math.min(ids.length - 1, at + step)),
      }));
      const rows = new Float32Array(chunks.reduce((sum, { ids }) => sum + ids.length, 0) * vocabulary);
      await runner.logits(chunks, rows, context);
      let row = 0;
      for (const [index, branch] of branches.entries()) {
        const { ids, begin } = branch.text;
        for (let place = at + 1; place <= at + (chunks[index]?.ids.length ?? 0); place++, row++) {
          if (place < begin) continue;
          const logits = rows.subarray(row * vocabulary, (row + 1) * vocabulary);
          const { logProbability, best } = tokenScore(logits, ids[place] as number);
          branch.perToken.push(logProbability);
          branch.greedy &&= best;
        }
      }
    }
  } finally {
    for (const { sequence } of branches) releaseBranch(context.cache, sequence, prompt);
  }
  return branches.map(({ text: { ids, begin }, perToken, greedy }) => ({
    logLikelihood: perToken.reduce((sum, value) => sum + value, 0),
    tokens: perToken.length,
    ids: ids.slice(begin),
    perToken: Float64Array.from(perToken),
    greedy,
  }));
}

/** A sequence that goes on behind `prompt`, whose last page is full: it only reads the prompt's pages. */
function branchOf({ pages, length }: Sequence): Sequence {
  return { pages: [...pages], length };
}

function releaseBranch(cache: KvCache, branch: Sequence, prompt: Sequence): void {
  branch.pages.splice(0, prompt.pages.length);
  cache.release(branch);
}

/** Log-softmax of `logits` at `id`, and whether no logit is larger (ties to the lower id). */
function tokenScore(logits: Float32Array, id: number): { logProbability: number; best: boolean } {
  let top = 0;
  for (let i = 1; i < logits.length; i++) if ((logits[i] as number) > (logits[top] as number)) top = i;
  const peak = logits[top] as number;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp((logits[i] as number) - peak);
  return { logProbability: (logits[id] as number) - peak - Math.log(sum), best: top === id };
}
