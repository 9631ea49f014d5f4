import { requireObject } from '../../arguments.ts';
import type { Assembly } from '../assembly.ts';
import type { Value } from '../value.ts';

/** add: alpha·a + beta·b; multiply: a·b; scale: alpha·a + beta; clamp: min(max(a, alpha), beta); the rest of a alone. */
export type MapFunction =
  | 'add'
  | 'multiply'
  | 'scale'
  | 'clamp'
  | 'relu'
  | 'gelu'
  | 'gelu_tanh'
  | 'silu'
  | 'sigmoid'
  | 'tanh';

export interface MapOptions {
  /** Default 1; for clamp the lower bound, default −∞. */
  alpha?: number | undefined;
  /** Default 1 for add, else 0; for clamp the upper bound, default ∞. */
  beta?: number | undefined;
}

/** Elementwise; a float [T, W], b float [T, W] or [T, 1] (spread over the row) → as a. */
export function map(g: Assembly, fn: MapFunction, a: Value, b?: Value, options: MapOptions = {}): Value {
  requireObject(options);
  const clamp = fn === 'clamp';
  const alpha = options.alpha ?? (clamp ? Number.NEGATIVE_INFINITY : 1);
  const beta = options.beta ?? (clamp ? Number.POSITIVE_INFINITY : fn === 'add' ? 1 : 0);
  return g.single('map', { a, b }, { function: fn, alpha, beta });
}
