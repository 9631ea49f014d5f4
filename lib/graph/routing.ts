/** What `route` decided: which expert takes which token, and the rows of the bank in the order in which they run. */
import { invalid, requireObject } from '../arguments.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { Value } from './value.ts';

/** T tokens, K choices a token, R = T·K rows, S slots. Rows lie in order of (slot, expert, token). */
export interface Routing {
  /** i32 [T, K], original experts, best first (ascending where experts choose); −1: none. */
  readonly ids: Value;
  /** f32 [T, K]. */
  readonly gates: Value;
  /** i32 [T, K], the row of each choice; −1: none. */
  readonly rowOf: Value;
  /** i32 [R], the token of each row. */
  readonly tokenOf: Value;
  /** f32 [R]; the sum where choices share a row. */
  readonly gateOf: Value;
  /** i32 [S + 1]: slot s has rows offsets[s] … offsets[s + 1]. */
  readonly offsets: Value;
  readonly experts: number;
  readonly slots: number;
  readonly topK: number;
  /** [experts] → slot, by which the rows are grouped; undefined: expert and slot are one. */
  readonly groupOf: Tensor | Int32Array | undefined;
}

/** Whether the rows of `routing` are grouped by `groupOf`. */
export function groupedBy(routing: Routing, groupOf: Int32Array | undefined): boolean {
  const own = routing.groupOf;
  if (own === groupOf) return true;
  if (!(own instanceof Int32Array) || !groupOf || own.length !== groupOf.length) return false;
  return own.every((slot, expert) => slot === groupOf[expert]);
}

/** @internal `routing`, the result of `route`. Throws INVALID_ARGUMENT for anything else. */
export function requireRouting(routing: Routing, argument = 'routing'): Routing {
  const { ids, gates, rowOf, tokenOf, gateOf, offsets } = requireObject(routing, argument);
  if ([ids, gates, rowOf, tokenOf, gateOf, offsets].every((value) => value instanceof Value)) return routing;
  throw invalid(argument, 'a Routing of route()', routing);
}
