import { requireObject } from '../../arguments.ts';
import type { Dtype } from '../../tensor/dtype.ts';
import type { Assembly } from '../assembly.ts';
import { type Routing, requireRouting } from '../routing.ts';
import type { Value } from '../value.ts';

export interface CombineOptions {
  /** float [T, H], a shared expert's result. */
  shared?: Value | undefined;
  /** float [T, 1]: its sigmoid multiplies `shared`. */
  sharedGate?: Value | undefined;
  /** float [T, H]. */
  residual?: Value | undefined;
  /** The sums go to the rows of this routing of the same choices, not to tokens. */
  onto?: Routing | undefined;
  /** Of the result. Default: that of `rows`. */
  dtype?: Dtype | undefined;
}

/** y[t] = residual[t] + Σ gate · row over the token's rows + sigmoid(sharedGate[t]) · shared[t]; rows float [R, H] → float [T, H]. */
export function combine(g: Assembly, rows: Value, routing: Routing, options: CombineOptions = {}): Value {
  const { shared, sharedGate, residual, dtype = g.dtypeOf(rows, 'rows') } = requireObject(options);
  const { rowOf, gateOf } = requireRouting(routing);
  const onto = options.onto && requireRouting(options.onto, 'onto').rowOf;
  return g.single('combine', { rows, rowOf, gateOf, shared, sharedGate, residual, onto }, { dtype });
}
