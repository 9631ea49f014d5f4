import { requireObject } from '../../arguments.ts';
import type { Assembly } from '../assembly.ts';
import { type Routing, requireRouting } from '../routing.ts';
import type { Value } from '../value.ts';

/** count: how often each id came; sum: Σ x; norm_sum: Σ ‖x‖₂; gram: Σ aᵀb; over the rows of a run. */
export type Statistic = 'count' | 'sum' | 'norm_sum' | 'gram';

export interface AccumulateOptions {
  /** gram: float [R or T, Wb]. Default: a. */
  b?: Value | undefined;
  /** Rows of slot s go to part s of the state, which has a leading dimension of slots. */
  routing?: Routing | undefined;
  /** Rows are weighted by gate^power; needs a routing where it is not 0. Default 0. */
  gatePower?: 0 | 1 | 2 | undefined;
}

/**
 * Adds a statistic of this run into a state f64: count [E] of i32 ids [T, K]; sum [W]; norm_sum [1]; gram [Wa, Wb]; with a
 * leading [slots] where a routing is given (norm_sum: [slots]).
 */
export function accumulate(
  g: Assembly,
  statistic: Statistic,
  a: Value,
  state: Value,
  options: AccumulateOptions = {},
): void {
  const { b, routing, gatePower = 0 } = requireObject(options);
  if (routing !== undefined) requireRouting(routing);
  const gateOf = gatePower === 0 ? undefined : routing?.gateOf;
  g.node('accumulate', { a, b, offsets: routing?.offsets, gateOf, state }, { statistic, gatePower });
}
