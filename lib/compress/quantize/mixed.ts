/** Formats of matrices under a budget of bytes. */
import { MoeError } from '../../errors.ts';

/** One way to store something. */
export interface Choice {
  readonly bytes: number;
  /** What the model loses by it, in any unit that adds up. */
  readonly error: number;
}

/** Totals of bytes that are told apart; with more of them the nearest ones count as one. */
const mostTotals = 20_000;

/** The best way to reach a total: its choice for the last item, and the way to the items before. */
interface Way extends Choice {
  readonly choice: number;
  readonly before: Way | undefined;
}

/**
 * One choice for each item, so that the errors add up to the least that the budget allows. Exact (dynamic programming over the totals of
 * bytes) while there are no more than 20 000 totals that matter; beyond, totals within a 20 000th of the budget are taken as one.
 *
 * @returns [items]: the index of each item's choice
 * @throws MoeError RECIPE_INVALID where even the smallest choices are too large
 */
export function chooseWithin(items: readonly (readonly Choice[])[], budget: number): number[] {
  let ways: Way[] = [{ bytes: 0, error: 0, choice: -1, before: undefined }];
  const smallest = items.map((choices) => Math.min(...choices.map(({ bytes }) => bytes)));
  const least = smallest.reduce((sum, bytes) => sum + bytes, 0);
  let rest = least;
  for (const [at, choices] of items.entries()) {
    // What comes after needs room for its smallest choices.
    rest -= smallest[at] as number;
    const room = budget - rest;
    const longer = ways.flatMap((before) =>
      choices.map(({ bytes, error }, choice) => ({
        bytes: before.bytes + bytes,
        error: before.error + error,
        choice,
        before,
      })),
    );
    ways = thinned(undominated(longer.filter(({ bytes }) => bytes <= room)), budget);
  }
  const last = ways.at(-1);
  if (!last) {
    throw new MoeError('RECIPE_INVALID', {
      argument: 'budget',
      expected: `at least ${least} bytes for the smallest formats`,
      received: `${Math.floor(budget)} bytes`,
    });
  }
  const chosen: number[] = [];
  for (let way: Way = last; way.before; way = way.before) chosen.unshift(way.choice);
  return chosen;
}

/** By rising bytes, only those with less error than everything smaller. */
function undominated(ways: Way[]): Way[] {
  ways.sort((a, b) => a.bytes - b.bytes || a.error - b.error || a.choice - b.choice);
  let least = Number.POSITIVE_INFINITY;
  return ways.filter(({ error }) => {
    if (error >= least) return false;
    least = error;
    return true;
  });
}

/** Of ways within one part of the budget the one with the least error, once there are too many. */
function thinned(ways: Way[], budget: number): Way[] {
  if (ways.length <= mostTotals) return ways;
  const part = ({ bytes }: Way): number => Math.floor((bytes / budget) * mostTotals);
  return ways.filter((way, at) => {
    const next = ways[at + 1];
    return !next || part(next) !== part(way);
  });
}
