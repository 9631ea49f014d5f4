import { invalid, requireObject } from '../../arguments.ts';
import type { Dtype } from '../../tensor/dtype.ts';
import type { ActivationMode } from '../../weight/format.ts';
import { specMode } from '../../weight/spec.ts';
import { Weight } from '../../weight/weight.ts';
import type { Assembly } from '../assembly.ts';
import { type Routing, requireRouting } from '../routing.ts';
import type { Value } from '../value.ts';

export type Activation = 'none' | 'relu' | 'gelu' | 'gelu_tanh' | 'silu' | 'swiglu' | 'geglu';

export interface LinearOptions {
  /** swiglu and geglu need a gated weight. Default 'none'. */
  activation?: Activation | undefined;
  /** Default: what the formats of the weight's parts ask for, 'exact' under float weights. */
  mode?: ActivationMode | undefined;
  /** Runs the rows of a routing, each through its slot. */
  routing?: Routing | undefined;
  /** With a routing: x is [tokens, in] and each row reads its token's; false: x is [rows, in]. Default true. */
  gather?: boolean | undefined;
  /** As the result; only without a routing. */
  residual?: Value | undefined;
  /** Of the result. Default: that of x. */
  dtype?: Dtype | undefined;
}

/** y = activation(x·Wᵀ + bias) + residual, W the sum of the weight's parts; x float [T or R, in] → float [T or R, out], out/2 where the weight is gated. */
export function linear(g: Assembly, x: Value, weight: Weight, options: LinearOptions = {}): Value {
  if (!(weight instanceof Weight)) throw invalid('weight', 'a Weight', weight);
  requireObject(options);
  const { activation = 'none', mode = specMode(weight.spec), routing, gather = true, residual } = options;
  const { dtype = g.dtypeOf(x, 'x') } = options;
  if (routing !== undefined) requireRouting(routing);
  const tokenOf = routing && gather ? routing.tokenOf : undefined;
  return g.single('linear', { x, weight, tokenOf, offsets: routing?.offsets, residual }, { activation, mode, dtype });
}
