/**
 * LoSparse, as MC-SMoE's second step has it (arXiv 2306.11222; 2310.01334, section 3.3): a matrix as low rank and a rest, whose rows are
 * pruned step by step by how much the loss would miss them.
 */
import type { Factors, KeptRows } from '../experts.ts';
import { product } from '../numerics.ts';
import { lowRank, type Shape } from './low-rank.ts';

/** W = L·R + S: the truncated SVD with the root of the spectrum on each side, and what it misses, f32 [rows, columns]. */
export async function decompose(
  weight: Float32Array,
  shape: Shape,
  rank: number,
): Promise<{ factors: Factors; rest: Float32Array }> {
  const factors = await lowRank(weight, shape, rank, {});
  const given = await product(factors.b, factors.a, { ...shape, depth: rank });
  return { factors, rest: weight.map((value, at) => value - (given[at] as number)) };
}

/** When a rest is pruned, in steps from 1 on. */
export interface PruningSchedule {
  /** T. */
  readonly steps: number;
  /** Up to here everything stays. */
  readonly begin: number;
  /** At the end so many steps have the final share. */
  readonly tail: number;
  /** Share of the entries that stays. */
  readonly share: number;
  /** Steps from one pruning to the next, over which importance is averaged; in the tail every step prunes. Default 1. */
  readonly every?: number;
}

/** The share of entries that stays after a step: falls from 1 to the final share along a cubic. */
export function keptShare(step: number, { steps, begin, tail, share }: PruningSchedule): number {
  if (step <= begin) return 1;
  if (step > steps - tail) return share;
  return share + (1 - share) * (1 - (step - begin) / (steps - begin - tail)) ** 3;
}

/** What is removed at once. */
export type PruningUnit = 'row' | 'column' | 'entry';

export interface PrunedMatrix extends Shape {
  /** Pruned in place: entries become 0. */
  readonly values: Float32Array;
  readonly unit: PruningUnit;
}

export interface PruningOptions {
  readonly schedule: PruningSchedule;
  /** β₁ of the importance's moving average. Default 0.85; 'magnitude' takes |w| in place of importance. */
  readonly smoothing?: number | 'magnitude';
  /** β₂, 0 … 1: importance is multiplied by its smoothed variation; 1 leaves that out. Default 1. */
  readonly uncertainty?: number;
  /** What the score of a row or a column is of its entries' scores. Default 'mean'. */
  readonly reduce?: 'mean' | 'sum';
}

/** One step's outcome. */
export interface PruningStep {
  /** Share of entries that the schedule keeps. */
  readonly keep: number;
  /** Units that score below it were removed; 0 where the step prunes nothing. */
  readonly threshold: number;
}

/** Running sums of one matrix, a value for each entry. */
interface Importance {
  /** Of the steps since the last average. */
  readonly recent: Float64Array;
  readonly smoothed: Float64Array;
  readonly variation: Float64Array;
}

/**
 * Prunes matrices together by one threshold. Importance is |w·∂loss/∂w|, averaged over the steps between two prunings and then smoothed one
 * such time late, as published: what a step sees counts from the next one on. Units that score exactly the threshold stay.
 */
export class LoSparsePruner {
  readonly #matrices: readonly PrunedMatrix[];
  readonly #options: Required<PruningOptions>;
  readonly #importance: readonly Importance[];
  #step = 0;

  constructor(matrices: readonly PrunedMatrix[], options: PruningOptions) {
    this.#matrices = matrices;
    this.#options = { smoothing: 0.85, uncertainty: 1, reduce: 'mean', ...options };
    this.#importance = matrices.map(({ values: { length } }) => ({
      recent: new Float64Array(length),
      smoothed: new Float64Array(length),
      variation: new Float64Array(length),
    }));
  }

  /** @param gradients of the loss, one for each matrix and of its shape */
  step(gradients: readonly Float32Array[]): PruningStep {
    this.#step++;
    const { schedule } = this.#options;
    const { every = 1, begin, steps, tail } = schedule;
    this.#matrices.forEach(({ values }, at) => {
      this.#notice(this.#importance[at] as Importance, values, gradients[at] as Float32Array, this.#step % every);
    });
    const keep = keptShare(this.#step, schedule);
    const prunes = this.#step > begin && (this.#step > steps - tail || this.#step % every === 0);
    return { keep, threshold: prunes ? this.#prune(keep) : 0 };
  }

  #notice(
    { recent, smoothed, variation }: Importance,
    values: Float32Array,
    gradient: Float32Array,
    within: number,
  ): void {
    const { smoothing, uncertainty } = this.#options;
    if (smoothing === 'magnitude') return;
    for (let at = 0; at < values.length; at++) {
      const now = Math.abs((values[at] as number) * (gradient[at] as number));
      const last = recent[at] as number;
      if (within > 0) {
        recent[at] = (last * within + now) / (within + 1);
        continue;
      }
      const average = smoothing * (smoothed[at] as number) + (1 - smoothing) * last;
      smoothed[at] = average;
      variation[at] = uncertainty * (variation[at] as number) + (1 - uncertainty) * Math.abs(last - average);
      recent[at] = now;
    }
  }

  #prune(keep: number): number {
    const scores = this.#matrices.map((matrix, at) => this.#scores(matrix, this.#importance[at] as Importance));
    const total = this.#matrices.reduce((sum, { values }) => sum + values.length, 0);
    const rank = Math.floor(total * (1 - keep));
    if (rank === 0) return 0;
    const threshold = this.#smallest(scores, rank);
    this.#matrices.forEach(({ values, columns, unit }, index) => {
      const own = scores[index] as Float64Array;
      for (let at = 0; at < values.length; at++) {
        if ((own[unitOf(unit, at, columns)] as number) < threshold) values[at] = 0;
      }
    });
    return threshold;
  }

  /** Of all entries, each with the score of its unit, the `rank`-th smallest score. */
  #smallest(scores: readonly Float64Array[], rank: number): number {
    const units = this.#matrices.flatMap(({ values }, at) => {
      const own = scores[at] as Float64Array;
      const entries = values.length / own.length;
      return Array.from(own, (score) => ({ score, entries }));
    });
    units.sort((a, b) => a.score - b.score);
    let seen = 0;
    for (const { score, entries } of units) {
      seen += entries;
      if (seen >= rank) return score;
    }
    return Number.POSITIVE_INFINITY;
  }

  /** f64 [units]. */
  #scores({ values, rows, columns, unit }: PrunedMatrix, { smoothed, variation }: Importance): Float64Array {
    const { smoothing, uncertainty, reduce } = this.#options;
    const units = unit === 'row' ? rows : unit === 'column' ? columns : values.length;
    const scores = new Float64Array(units);
    const share = reduce === 'mean' ? units / values.length : 1;
    for (let at = 0; at < values.length; at++) {
      const importance = (smoothed[at] as number) * (uncertainty < 1 ? (variation[at] as number) : 1);
      const score = smoothing === 'magnitude' ? Math.abs(values[at] as number) : importance;
      const to = unitOf(unit, at, columns);
      scores[to] = (scores[to] as number) + score * share;
    }
    return scores;
  }
}

function unitOf(unit: PruningUnit, at: number, columns: number): number {
  if (unit === 'entry') return at;
  return unit === 'row' ? Math.floor(at / columns) : at % columns;
}

/** The rows of a pruned rest that are not all zeros: what is stored of it. */
export function remainingRows(rest: Float32Array, { rows, columns }: Shape): KeptRows {
  const row = (at: number): Float32Array => rest.subarray(at * columns, (at + 1) * columns);
  const index = Int32Array.from({ length: rows }, (_, at) => at).filter((at) => row(at).some((value) => value !== 0));
  const values = new Float32Array(index.length * columns);
  index.forEach((from, to) => {
    values.set(row(from), to * columns);
  });
  return { index, values };
}
