/**
 * LoSparse, as MC-SMoE's second step has it (arXiv 2306.11222; 2310.01334, section 3.3): a matrix as low rank and a rest, whose rows are
 * pruned step by step by how much the loss would miss them.
 */
import type { KeptRows } from '../experts.ts';
import type { Shape } from './low-rank.ts';

/** When a rest is pruned. */
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
  /** Number of the first step. Default 1. */
  readonly first?: number;
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

/** Of one matrix. */
interface Importance {
  /** [units]: 0 where it was removed. */
  readonly kept: Uint8Array;
  /** A value for each unit; for each entry where importance is multiplied by its variation. Of the steps since the last average. */
  readonly recent: Float64Array;
  readonly smoothed: Float64Array;
  readonly variation: Float64Array;
}

/**
 * Prunes matrices together by one threshold. Importance is |w·∂loss/∂w|, averaged over the steps between two prunings and then smoothed one
 * such time late, as published: what a step sees counts from the next one on. Units that score exactly the threshold stay; what is removed
 * stays away.
 */
export class LoSparsePruner {
  readonly #matrices: readonly PrunedMatrix[];
  readonly #options: Required<PruningOptions>;
  readonly #importance: readonly Importance[];
  #next: number;

  constructor(matrices: readonly PrunedMatrix[], options: PruningOptions) {
    this.#matrices = matrices;
    this.#next = options.schedule.first ?? 1;
    this.#options = { smoothing: 0.85, uncertainty: 1, reduce: 'mean', ...options };
    this.#importance = matrices.map((matrix) => {
      const tracked = this.#weighsVariation ? matrix.rows * matrix.columns : unitsOf(matrix);
      return {
        kept: new Uint8Array(unitsOf(matrix)).fill(1),
        recent: new Float64Array(tracked),
        smoothed: new Float64Array(tracked),
        variation: new Float64Array(this.#weighsVariation ? tracked : 0),
      };
    });
  }

  /** [units] of a matrix: 1 for what stays. */
  kept(index: number): Uint8Array {
    return (this.#importance[index] as Importance).kept;
  }

  /**
   * What the next step sees of a matrix.
   *
   * @param values f32 [rows, columns]; what was removed counts as 0
   * @param gradient of the loss, of the same shape
   */
  observe(index: number, values: Float32Array, gradient: Float32Array): void {
    const { schedule, smoothing, uncertainty } = this.#options;
    const within = this.#next % (schedule.every ?? 1);
    const { recent, smoothed, variation } = this.#importance[index] as Importance;
    const now = this.#tracked(index, values, gradient);
    for (let at = 0; at < now.length; at++) {
      const [last, seen] = [recent[at] as number, now[at] as number];
      if (smoothing === 'magnitude') {
        smoothed[at] = seen;
      } else if (within > 0) {
        recent[at] = (last * within + seen) / (within + 1);
      } else {
        const average = smoothing * (smoothed[at] as number) + (1 - smoothing) * last;
        smoothed[at] = average;
        if (this.#weighsVariation) {
          variation[at] = uncertainty * (variation[at] as number) + (1 - uncertainty) * Math.abs(last - average);
        }
        recent[at] = seen;
      }
    }
  }

  /** Ends a step, for which all matrices were observed. */
  prune(): PruningStep {
    const step = this.#next++;
    const { schedule } = this.#options;
    const { every = 1, begin, steps, tail } = schedule;
    const keep = keptShare(step, schedule);
    const prunes = step > begin && (step > steps - tail || step % every === 0);
    return { keep, threshold: prunes ? this.#remove(keep) : 0 };
  }

  /** Only then are the single entries of a unit worth remembering. */
  get #weighsVariation(): boolean {
    return this.#options.smoothing !== 'magnitude' && this.#options.uncertainty < 1;
  }

  /** |w·gradient| or |w|, entry by entry or unit by unit, as it is remembered. */
  #tracked(index: number, values: Float32Array, gradient: Float32Array): Float64Array {
    const { columns, unit } = this.#matrices[index] as PrunedMatrix;
    const { kept } = this.#importance[index] as Importance;
    const entries = new Float64Array(values.length);
    const magnitude = this.#options.smoothing === 'magnitude';
    for (let at = 0; at < values.length; at++) {
      if (!kept[unitOf(unit, at, columns)]) continue;
      entries[at] = Math.abs((values[at] as number) * (magnitude ? 1 : (gradient[at] as number)));
    }
    return this.#weighsVariation ? entries : this.#reduced(index, entries);
  }

  #remove(keep: number): number {
    const scores = this.#matrices.map((_, index) => this.#scores(index));
    const total = this.#matrices.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
    const rank = Math.floor(total * (1 - keep));
    if (rank === 0) return 0;
    const threshold = this.#smallest(scores, rank);
    for (const [index, { kept }] of this.#importance.entries()) {
      scores[index]?.forEach((score, unit) => {
        if (score < threshold) kept[unit] = 0;
      });
    }
    return threshold;
  }

  /** Of all entries, each with the score of its unit, the `rank`-th smallest score. */
  #smallest(scores: readonly Float64Array[], rank: number): number {
    const units = this.#matrices.flatMap((matrix, at) => {
      const own = scores[at] as Float64Array;
      const entries = (matrix.rows * matrix.columns) / own.length;
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
  #scores(index: number): Float64Array {
    const { smoothed, variation } = this.#importance[index] as Importance;
    if (!this.#weighsVariation) return smoothed;
    return this.#reduced(
      index,
      smoothed.map((value, at) => value * (variation[at] as number)),
    );
  }

  /** Entries to units, f64. */
  #reduced(index: number, entries: Float64Array): Float64Array {
    const matrix = this.#matrices[index] as PrunedMatrix;
    const units = new Float64Array(unitsOf(matrix));
    const share = this.#options.reduce === 'mean' ? units.length / entries.length : 1;
    for (let at = 0; at < entries.length; at++) {
      const to = unitOf(matrix.unit, at, matrix.columns);
      units[to] = (units[to] as number) + (entries[at] as number) * share;
    }
    return units;
  }
}

function unitsOf({ unit, rows, columns }: PrunedMatrix): number {
  return unit === 'row' ? rows : unit === 'column' ? columns : rows * columns;
}

function unitOf(unit: PruningUnit, at: number, columns: number): number {
  if (unit === 'entry') return at;
  return unit === 'row' ? Math.floor(at / columns) : at % columns;
}

/** The rows of a rest that stay, as they are stored. */
export function keptRows(rest: Float32Array, columns: number, index: Int32Array): KeptRows {
  const values = new Float32Array(index.length * columns);
  index.forEach((from, to) => {
    values.set(rest.subarray(from * columns, (from + 1) * columns), to * columns);
  });
  return { index, values };
}
