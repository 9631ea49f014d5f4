/** Shapes: dimensions that are numbers, symbols, or a multiple of a symbol; and their arithmetic. */
import { inspect } from 'node:util';
import type { NativeDimension } from '../addon.ts';
import { MoeError } from '../errors.ts';

/** `'tokens'` is `{ factor: 1, symbol: 'tokens' }`: the size is known at each run. Only dimension 0 may carry a symbol. */
export type Dimension = number | string | { readonly factor: number; readonly symbol: string };
export type Shape = readonly Dimension[];

/** Dimensions a tensor may have. */
const maxRank = 4;

/** `shape` with every symbol in the long form. Throws SHAPE_MISMATCH for what is no shape. */
export function nativeShape(shape: Shape, argument = 'shape'): NativeDimension[] {
  if (!Array.isArray(shape) || shape.length === 0 || shape.length > maxRank) {
    throw mismatch(argument, `an array of 1 to ${maxRank} dimensions`, shape);
  }
  return shape.map((dimension: Dimension, index) => {
    if (typeof dimension === 'number') {
      if (!isSize(dimension)) throw mismatch(argument, 'dimensions that are whole and not negative', shape);
      return dimension;
    }
    const { factor, symbol } = typeof dimension === 'string' ? { factor: 1, symbol: dimension } : (dimension ?? {});
    if (index > 0) throw mismatch(argument, 'a symbol in dimension 0 only', shape);
    if (!isSize(factor) || factor === 0 || typeof symbol !== 'string' || symbol === '') {
      throw mismatch(argument, "a symbol as 'name' or { factor: whole and positive, symbol: 'name' }", shape);
    }
    return { factor, symbol };
  });
}

/** Elements of a shape without symbols. Throws SHAPE_MISMATCH where a dimension or the product is no safe integer ≥ 0. */
export function elementCount(shape: readonly number[], argument = 'shape'): number {
  if (!Array.isArray(shape) || shape.length === 0 || shape.length > maxRank || !shape.every(isSize)) {
    throw mismatch(argument, `1 to ${maxRank} dimensions that are whole and not negative`, shape);
  }
  let product = 1;
  for (const dimension of shape) {
    product *= dimension;
    if (!Number.isSafeInteger(product)) throw mismatch(argument, 'at most 2⁵³ − 1 elements', shape);
  }
  return product;
}

/** `[tokens, 64]` or `[4·tokens, 64]`, as messages show it. */
export function formatShape(shape: unknown): string {
  if (!Array.isArray(shape)) return inspect(shape, { depth: 1 });
  const words = shape.map((dimension: unknown) => {
    if (typeof dimension === 'number' || typeof dimension === 'string') return String(dimension);
    const { factor, symbol } = (dimension ?? {}) as { factor?: unknown; symbol?: unknown };
    if (typeof factor !== 'number' || typeof symbol !== 'string') return inspect(dimension, { depth: 1 });
    return factor === 1 ? symbol : `${factor}·${symbol}`;
  });
  return `[${words.join(', ')}]`;
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function mismatch(argument: string, expected: string, shape: unknown): MoeError {
  return new MoeError('SHAPE_MISMATCH', { argument, expected, received: formatShape(shape) });
}
