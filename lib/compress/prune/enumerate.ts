import { setImmediate } from 'node:timers/promises';
import { MoeError } from '../../errors.ts';

/** More drop sets than this are refused: each is weighed against every token. */
export const mostDropSets = 100_000;

/** What is known of the tokens of one batch. */
export interface ExpertOutputs {
  /** Raw router logits, [tokens, experts]. */
  readonly logits: Float32Array;
  /** Every expert's output without its gate, [tokens, experts, hidden]. */
  readonly outputs: Float32Array;
}

export interface DropSetOptions {
  readonly experts: number;
  /** Experts to drop, 1 … experts − topK. */
  readonly dropped: number;
  readonly topK: number;
  /** Whether the gates of the chosen experts are divided by their sum. Default true. */
  readonly renormalize?: boolean;
}

/**
 * The loss of every set of experts that could be dropped from a layer (NAEE, arXiv 2402.14800, section 3.2): the
 * Frobenius norm of the change of the layer's outputs, summed over batches, with the logits of dropped experts at −∞.
 * It depends on how tokens are cut into batches, as published.
 *
 * Batches may come one at a time: beside one batch, memory is [sets, experts] bytes. Of a token the inner products of
 * its experts' outputs are enough, so that a set costs a walk down its ranking.
 */
export class DropSetLosses {
  /** Every set, in lexicographic order, ascending inside. */
  readonly sets: readonly (readonly number[])[];
  /** f64 [sets], over the batches so far. */
  readonly losses: Float64Array;
  readonly #options: Required<DropSetOptions>;
  /** [sets, experts]: 1 where the set drops the expert. */
  readonly #drops: Uint8Array;

  /**
   * @throws MoeError RECIPE_INVALID where too few experts would stay, or the sets are more than {@link mostDropSets}
   */
  constructor({ experts, dropped, topK, renormalize = true }: DropSetOptions) {
    const count = binomial(experts, dropped);
    if (!(Number.isInteger(dropped) && dropped >= 1 && dropped <= experts - topK)) {
      throw new MoeError('RECIPE_INVALID', {
        argument: 'experts',
        expected: `${topK} … ${experts - 1} experts that stay`,
        received: String(experts - dropped),
      });
    }
    if (count > mostDropSets) {
      throw new MoeError('RECIPE_INVALID', {
        argument: 'method',
        expected: `at most ${mostDropSets} sets of experts to drop`,
        received: `${count} sets of ${dropped} out of ${experts}`,
      });
    }
    this.#options = { experts, dropped, topK, renormalize };
    this.sets = combinations(experts, dropped);
    this.losses = new Float64Array(count);
    this.#drops = new Uint8Array(count * experts);
    this.sets.forEach((set, index) => {
      for (const expert of set) this.#drops[index * experts + expert] = 1;
    });
  }

  /**
   * Adds a batch; other events have their turn between two tokens.
   *
   * @throws MoeError INVALID_ARGUMENT where logits and outputs do not fit
   */
  async add({ logits, outputs }: ExpertOutputs, signal?: AbortSignal): Promise<void> {
    const { experts } = this.#options;
    const tokens = logits.length / experts;
    const hidden = outputs.length / logits.length;
    if (!Number.isInteger(tokens) || !(Number.isInteger(hidden) && hidden > 0)) {
      throw new MoeError('INVALID_ARGUMENT', {
        argument: 'outputs',
        expected: `[tokens, ${experts}, hidden] beside logits [tokens, ${experts}]`,
        received: `${outputs.length} outputs and ${logits.length} logits`,
      });
    }
    const squares = new Float64Array(this.sets.length);
    for (let token = 0; token < tokens; token++) {
      await setImmediate(undefined, { signal });
      const row = logits.subarray(token * experts, (token + 1) * experts);
      this.#addToken(row, outputs.subarray(token * experts * hidden, (token + 1) * experts * hidden), squares);
    }
    squares.forEach((sum, set) => {
      this.losses[set] = (this.losses[set] as number) + Math.sqrt(Math.max(0, sum));
    });
  }

  /** The set of the least loss; the first where several have it. */
  best(): readonly number[] {
    let best = 0;
    this.losses.forEach((loss, set) => {
      if (loss < (this.losses[best] as number)) best = set;
    });
    return this.sets[best] as readonly number[];
  }

  /** Adds the squared change of one token's output to every set. */
  #addToken(logits: Float32Array, outputs: Float32Array, squares: Float64Array): void {
    const { experts, topK, renormalize } = this.#options;
    const choices = new Choices(logits, outputs, topK);
    for (let set = 0; set < squares.length; set++) {
      squares[set] = (squares[set] as number) + choices.change(this.#drops, set * experts, renormalize);
    }
  }
}

/** A new choice; v is the sum of its scores times outputs, u that of the choice before. */
interface Leaf {
  /** Σ scores. */
  readonly total: number;
  /** u·v. */
  readonly cross: number;
  /** ‖v‖². */
  readonly square: number;
}

/**
 * What a token's choice becomes under a drop set. Sets that drop the same experts from the top of the ranking give the
 * same choice, so each choice is a leaf of a tree whose branches say which of the ranked experts stay, and is weighed
 * once.
 */
class Choices {
  readonly #ranked: readonly number[];
  readonly #scores: Float64Array;
  readonly #gram: Float64Array;
  readonly #topK: number;
  /** Scores of the experts that are chosen before anything is dropped, 0 for the others. */
  readonly #before: Float64Array;
  /** Their sum. */
  readonly #total: number;
  readonly #allScores: number;
  /** ‖u‖², u the sum of these scores times the outputs. */
  readonly #square: number;
  /** Two a node, the next one where the expert stays and where it is dropped; 0: not there yet. */
  readonly #next: number[] = [0, 0];
  readonly #leaves: (Leaf | undefined)[] = [];

  constructor(logits: Float32Array, outputs: Float32Array, topK: number) {
    this.#ranked = [...logits.keys()].sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
    const largest = logits[this.#ranked[0] as number] as number;
    this.#scores = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
    this.#gram = gramOf(outputs, logits.length);
    this.#topK = topK;
    this.#before = this.#choose(this.#ranked);
    this.#total = totalOf(this.#before);
    this.#allScores = totalOf(this.#scores);
    this.#square = this.#product(this.#before, this.#before);
  }

  /** ‖y − y'‖², y' the output without the dropped experts; `drops` holds 1 for each of them from `at` on. */
  change(drops: Uint8Array, at: number, renormalize: boolean): number {
    let node = 0;
    let rank = 0;
    for (let kept = 0; kept < this.#topK; rank++) {
      const dropped = drops[at + (this.#ranked[rank] as number)] as number;
      const branch = 2 * node + dropped;
      if (!this.#next[branch]) {
        this.#next[branch] = this.#next.length / 2;
        this.#next.push(0, 0);
      }
      node = this.#next[branch] as number;
      kept += 1 - dropped;
    }
    // The choice stays as it is, and so do gates that are divided by their own sum.
    if (renormalize && rank === this.#topK) return 0;
    const leaf = this.#leaves[node] ?? this.#weigh(drops, at);
    this.#leaves[node] = leaf;
    const before = 1 / (renormalize ? this.#total : this.#allScores);
    const after = 1 / (renormalize ? leaf.total : this.#remaining(drops, at));
    return before * before * this.#square - 2 * before * after * leaf.cross + after * after * leaf.square;
  }

  #weigh(drops: Uint8Array, at: number): Leaf {
    const chosen = this.#choose(this.#ranked.filter((expert) => !drops[at + expert]));
    return {
      total: totalOf(chosen),
      cross: this.#product(this.#before, chosen),
      square: this.#product(chosen, chosen),
    };
  }

  #remaining(drops: Uint8Array, at: number): number {
    let sum = 0;
    for (let expert = 0; expert < this.#scores.length; expert++) {
      if (!drops[at + expert]) sum += this.#scores[expert] as number;
    }
    return sum;
  }

  #choose(ranked: readonly number[]): Float64Array {
    const chosen = new Float64Array(this.#scores.length);
    for (const expert of ranked.slice(0, this.#topK)) chosen[expert] = this.#scores[expert] as number;
    return chosen;
  }

  /** Inner product of two sums of scores times outputs. */
  #product(a: Float64Array, b: Float64Array): number {
    const experts = a.length;
    let sum = 0;
    for (let i = 0; i < experts; i++) {
      if (a[i] === 0) continue;
      for (let j = 0; j < experts; j++) {
        sum += (a[i] as number) * (b[j] as number) * (this.#gram[i * experts + j] as number);
      }
    }
    return sum;
  }
}

function totalOf(scores: Float64Array): number {
  return scores.reduce((sum, score) => sum + score, 0);
}

/** Inner products of the rows [experts, hidden]. */
function gramOf(outputs: Float32Array, experts: number): Float64Array {
  const hidden = outputs.length / experts;
  const gram = new Float64Array(experts * experts);
  for (let a = 0; a < experts; a++) {
    for (let b = 0; b <= a; b++) {
      let sum = 0;
      for (let i = 0; i < hidden; i++) sum += (outputs[a * hidden + i] as number) * (outputs[b * hidden + i] as number);
      gram[a * experts + b] = sum;
      gram[b * experts + a] = sum;
    }
  }
  return gram;
}

/** How many sets of k there are of n. */
export function binomial(n: number, k: number): number {
  let count = 1;
  for (let i = 1; i <= k; i++) count = Math.round((count * (n - k + i)) / i);
  return count;
}

/** All sets of k out of 0 … n − 1, in lexicographic order. */
function combinations(n: number, k: number): number[][] {
  const sets: number[][] = [];
  const set = Array.from({ length: k }, (_, at) => at);
  for (;;) {
    sets.push([...set]);
    let at = k - 1;
    while (at >= 0 && set[at] === n - k + at) at--;
    if (at < 0) return sets;
    set[at] = (set[at] as number) + 1;
    for (let next = at + 1; next < k; next++) set[next] = (set[next - 1] as number) + 1;
  }
}
