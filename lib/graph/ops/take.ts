import type { Assembly } from '../assembly.ts';
import type { Value } from '../value.ts';

/** y[i] = x[index[i]]; x float or i32 [T, W], index i32 [M] → [M, W]. An index out of range gives zeros. */
export function take(g: Assembly, x: Value, index: Value): Value {
  return g.single('take', { x, index }, {});
}
