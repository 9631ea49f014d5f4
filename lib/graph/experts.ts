/** The expert MLPs of a layer, composed of `linear` and `combine`. */

import { requireObject } from '../arguments.ts';
import type { ExpertBank } from '../weight/bank.ts';
import type { ActivationMode } from '../weight/format.ts';
import type { Assembly } from './assembly.ts';
import { combine } from './ops/combine.ts';
import { linear } from './ops/linear.ts';
import { regroup } from './ops/route.ts';
import { groupedBy, type Routing, requireRouting } from './routing.ts';
import type { Value } from './value.ts';

export interface ExpertsOptions {
  /** float [T, H]. */
  residual?: Value | undefined;
  /** float [T, H], a shared expert's result. */
  shared?: Value | undefined;
  /** float [T, 1]. */
  sharedGate?: Value | undefined;
  /** Default: what the bank's formats ask for. */
  mode?: ActivationMode | undefined;
}

/**
 * y[t] = residual[t] + Σ gate · expert(x[t]) + sigmoid(sharedGate[t]) · shared[t]; x float [T, H] → as x. A routing that is not
 * laid out by the bank's `groupOf` is laid out anew.
 */
export function experts(
  g: Assembly,
  x: Value,
  routing: Routing,
  bank: ExpertBank,
  options: ExpertsOptions = {},
): Value {
  const { mode, residual, shared, sharedGate } = requireObject(options);
  const { kind, up, down, groupOf, slots } = requireObject(bank, 'bank');
  const rows = groupedBy(requireRouting(routing), groupOf) ? routing : regroup(g, routing, groupOf, slots);
  const hidden = linear(g, x, up, { routing: rows, activation: kind, mode });
  const results = linear(g, hidden, down, { routing: rows, gather: false, mode });
  return combine(g, results, rows, { residual, shared, sharedGate });
}
