import { requireObject } from '../../arguments.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { Assembly } from '../assembly.ts';
import type { Value } from '../value.ts';

export interface ConvolveOptions {
  /** float [C]. */
  bias?: Tensor | undefined;
  /** Default 'none'. */
  activation?: 'none' | 'silu' | undefined;
}

/**
 * Short causal convolution a channel; x float [T, C], weight float [C, width], sequence and positions i32 [T], state f32
 * [sequences, (width − 1)·C] → as x. Tokens of a sequence are consecutive and in order.
 */
export function convolve(
  g: Assembly,
  x: Value,
  weight: Tensor,
  sequence: Value,
  positions: Value,
  state: Value,
  options: ConvolveOptions = {},
): Value {
  const { bias, activation = 'none' } = requireObject(options);
  return g.single('convolve', { x, weight, bias, sequence, positions, state }, { activation });
}
