import { requireObject } from '../../arguments.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import { type Assembly, required } from '../assembly.ts';
import type { Value } from '../value.ts';

export interface NormOptions {
  /** rms: s / √(mean(s²) + epsilon) · weight; layer: the mean is removed first. Default 'rms'. */
  kind?: 'rms' | 'layer' | undefined;
  /** Default 1e-6 for rms, 1e-5 for layer. */
  epsilon?: number | undefined;
  /** Elements normalized together; divides the row. Default: the whole row. */
  width?: number | undefined;
  /** float [width]. */
  bias?: Tensor | undefined;
}

/** x float [T, W], weight float [width] → as x. */
export function norm(g: Assembly, x: Value, weight: Tensor | undefined, options: NormOptions = {}): Value {
  const { bias } = requireObject(options);
  return g.single('norm', { x, weight, bias, residual: undefined }, attributes(options));
}

/** s = x + residual and y = norm(s) in one pass; both float [T, W]. */
export function addNorm(
  g: Assembly,
  x: Value,
  residual: Value,
  weight: Tensor | undefined,
  options: NormOptions = {},
): { y: Value; sum: Value } {
  const { bias } = requireObject(options);
  const [y, sum] = g.node('norm', { x, weight, bias, residual }, attributes(options));
  return { y: required(y, 'norm'), sum: required(sum, 'norm') };
}

function attributes({
  kind = 'rms',
  epsilon = kind === 'rms' ? 1e-6 : 1e-5,
  width = 0,
}: NormOptions): Record<string, unknown> {
  return { kind, epsilon, width };
}
