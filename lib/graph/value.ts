/** What flows between the nodes of a graph. */
import type { NativeDimension } from '../addon.ts';
import type { Dtype } from '../tensor/dtype.ts';
import { formatShape } from '../tensor/shape.ts';

/** A handle: the numbers exist only while a program runs. Belongs to the graph that made it. */
export class Value {
  /** Index in the graph. */
  readonly id: number;
  readonly dtype: Dtype;
  /** `{ factor, symbol }` is factor × the symbol's size at a run. */
  readonly shape: readonly NativeDimension[];
  /** @internal Identity of the graph. */
  readonly owner: object;

  /** @internal */
  constructor(owner: object, id: number, dtype: Dtype, shape: readonly NativeDimension[]) {
    this.owner = owner;
    this.id = id;
    this.dtype = dtype;
    this.shape = shape;
  }

  /** `bf16 [tokens, 2048]`. */
  toString(): string {
    return `${this.dtype} ${formatShape(this.shape)}`;
  }
}
