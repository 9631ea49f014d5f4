import { requireObject } from '../../arguments.ts';
import type { Dtype } from '../../tensor/dtype.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { Assembly } from '../assembly.ts';
import type { Value } from '../value.ts';

export interface EmbedOptions {
  /** Default 1. */
  scale?: number | undefined;
  /** Of the result. Default: the table's. */
  dtype?: Dtype | undefined;
}

/** y[t] = scale · table[ids[t]]; ids i32 [T], table float [V, H] → float [T, H]. An id out of range gives zeros. */
export function embed(g: Assembly, ids: Value, table: Tensor | Value, options: EmbedOptions = {}): Value {
  const { scale = 1, dtype = g.dtypeOf(table, 'table') } = requireObject(options);
  return g.single('embed', { ids, table }, { scale, dtype });
}
