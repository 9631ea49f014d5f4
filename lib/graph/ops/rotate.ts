import { requireObject } from '../../arguments.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { Assembly } from '../assembly.ts';
import type { Value } from '../value.ts';

export interface RotateOptions {
  heads: number;
  /** Pairs are 2i and 2i + 1, else i and i + F. Default false. */
  interleaved?: boolean | undefined;
  /** Multiplies cosine and sine. Default 1. */
  scale?: number | undefined;
}

/** Rotary positions (RoFormer, section 3.2) on the first 2·F elements of each head; x float [T, heads·D], positions i32 [T], frequencies f32 [F]. */
export function rotate(g: Assembly, x: Value, positions: Value, frequencies: Tensor, options: RotateOptions): Value {
  const { heads, interleaved = false, scale = 1 } = requireObject(options);
  return g.single('rotate', { x, positions, frequencies }, { heads, interleaved, scale });
}
