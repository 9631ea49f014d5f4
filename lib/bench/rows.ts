/** Timing: subjects take turns, the limits are measured around each turn, and rows are judged against them. */
import type { NativeLimits } from '../addon.ts';
import { MoeError } from '../errors.ts';
import { boundOf, type Cost, type LimitMeter, totalOperations } from './limits.ts';

/** Something that can be called again and again; each call goes to the next of its sets of weights or data. */
export interface Subject {
  readonly tokens: number;
  /** Format or form of the weights, or the operation. */
  readonly weights: string;
  readonly cost: Cost;
  /** `weights` of the subject of the same group that this one is held against. */
  readonly against?: string;
  call(round: number): void;
}

/** Subjects that take turns, and what they hold. */
export interface Group {
  /** 'dense', 'experts', … */
  readonly work: string;
  readonly shape: string;
  /** Those with as many tokens are timed in turn, so that what slows the machine down slows all of them down. */
  subjects(): Promise<readonly Subject[]>;
  dispose(): void;
}

export interface Timed extends Cost {
  readonly work: string;
  readonly shape: string;
  readonly tokens: number;
  readonly weights: string;
  readonly against?: string;
  /** Median of a call. */
  readonly ms: number;
  /** What the machine read around the turn of this row. Absent: the best of the run counts. */
  readonly readBytesPerSecond?: number;
}

export interface Row extends Timed {
  readonly gigabytesPerSecond: number;
  readonly teraoperationsPerSecond: number;
  /** Time at the binding limit over the time taken; null where the device's limits are not known. */
  readonly share: number | null;
  readonly limit: 'memory' | 'arithmetic' | null;
}

export interface Timing {
  /** Calls of each subject; undefined: for about `seconds`, but at least five. */
  readonly rounds?: number | undefined;
}

const seconds = 0.4;
const mostRounds = 301;

/** Times the subjects of each group; those with as many tokens take turns. */
export async function timeGroups(
  groups: readonly Group[],
  meter: LimitMeter,
  timing: Timing & { readonly onGroup?: (group: Group, index: number) => void },
): Promise<Timed[]> {
  const timed: Timed[] = [];
  for (const [index, group] of groups.entries()) {
    timing.onGroup?.(group, index);
    try {
      const subjects = await group.subjects();
      for (const count of new Set(subjects.map(({ tokens }) => tokens))) {
        const turn = subjects.filter(({ tokens }) => tokens === count);
        const { result: times, readBytesPerSecond } = await meter.during(() => timeInTurn(turn, timing));
        for (const [at, { tokens, weights, against, cost }] of turn.entries()) {
          const { work, shape } = group;
          const ms = median(times[at] as number[]);
          timed.push({ work, shape, tokens, weights, ...(against && { against }), ms, readBytesPerSecond, ...cost });
        }
      }
    } finally {
      group.dispose();
    }
  }
  return timed;
}

/** Milliseconds of each call of each subject. */
export function timeInTurn(subjects: readonly Subject[], { rounds }: Timing): number[][] {
  const times = subjects.map((): number[] => []);
  // The first call also touches new memory.
  for (const subject of subjects) subject.call(0);
  const begin = performance.now();
  const due = (round: number): boolean =>
    rounds !== undefined
      ? round <= rounds
      : round <= 5 || (round <= mostRounds && performance.now() - begin < 1000 * seconds * subjects.length);
  for (let round = 1; due(round); round++) {
    for (const [at, subject] of subjects.entries()) {
      const started = performance.now();
      subject.call(round);
      times[at]?.push(performance.now() - started);
    }
  }
  return times;
}

export function median(times: readonly number[]): number {
  return times.toSorted((a, b) => a - b)[times.length >> 1] as number;
}

/** `warm`: the weights may lie in caches, so that memory is no limit. */
export function judge(timed: Timed, limits: NativeLimits, warm: boolean): Row {
  const { ms, bytes, operations, readBytesPerSecond = limits.readBytesPerSecond } = timed;
  const bound = boundOf({ bytes: warm ? 0 : bytes, operations }, { ...limits, readBytesPerSecond });
  return {
    ...timed,
    gigabytesPerSecond: bytes / ms / 1e6,
    teraoperationsPerSecond: totalOperations(operations) / ms / 1e9,
    share: bound ? (1000 * bound.seconds) / ms : null,
    limit: bound ? bound.limit : null,
  };
}

/** A row that is faster than its limit shows that the limit was measured wrongly, and with it every share. Throws INTERNAL. */
export function requirePossible(rows: readonly Row[]): void {
  const over = rows.filter(({ share }) => share !== null && share > 1);
  if (over.length === 0) return;
  const name = ({ work, shape, weights, tokens, share, limit }: Row): string =>
    `${work} ${shape} ${weights}, ${tokens} tokens: ${(100 * (share as number)).toFixed(0)} % of ${limit}`;
  throw new MoeError('INTERNAL', {
    argument: 'limits',
    expected: 'no row above 100 % of its limit, else the measured limit is wrong and no share counts',
    received: over.map(name).join('; '),
  });
}
