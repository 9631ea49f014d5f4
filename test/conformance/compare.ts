/** How far two results are apart: errors that do not depend on scale, and the one table of what is allowed. */
import assert from 'node:assert/strict';
import { bf16ToF32, type Dtype, f16ToF32, type HostArray } from '../../lib/index.ts';

/**
 * similarity: 1 − 2⟨a,b⟩ / (‖a‖² + ‖b‖²), from 0 (equal) to 2.
 * places: the largest |a − b|, in units of the last place of the largest |b|, over √K.
 */
export interface Bound {
  readonly similarity: number;
  readonly places: number;
}

/** Classes of cases. `exact`: to the bit. */
export const bounds = {
  exact: { similarity: 0, places: 0 },
  /** A few roundings in a row, no long sum. */
  element: { similarity: 1e-12, places: 4 },
  /** Sums over values that were rounded to bf16 on the way. */
  rounded: { similarity: 2 ** -18, places: 2 ** 13 },
  /** exp, tanh, erf, sine by polynomials. */
  transcendental: { similarity: 1e-12, places: 8 },
  /** Sums over K. */
  sum: { similarity: 1e-12, places: 1.5 },
  /** Sums after which a transcendental acts, softmax over scores, chains of operations. */
  chain: { similarity: 1e-11, places: 12 },
} as const satisfies Record<string, Bound>;

export type BoundName = keyof typeof bounds;

const unit: Record<Dtype, number> = {
  f32: 2 ** -24,
  f16: 2 ** -11,
  bf16: 2 ** -8,
  f64: 2 ** -24,
  i32: 0,
  i8: 0,
  u8: 0,
};
// A result kept in 16 bits may fall on the other side of a rounding: one place of its own, whatever the class.
const halfPlaces = 2.1;
const halfSimilarity = { f16: 2 ** -22, bf16: 2 ** -16 } as const;

/** Asserts that `actual` is as near to `expected` as the class asks; `k` is the length of the sums. */
export function assertNear(
  actual: HostArray,
  expected: HostArray,
  dtype: Dtype,
  name: BoundName,
  k: number,
  label: string,
): void {
  assert.equal(actual.length, expected.length, `${label}: lengths`);
  const a = widen(actual, dtype);
  const b = widen(expected, dtype);
  const bound = bounds[name];
  const exact = unit[dtype] === 0 || name === 'exact';
  let product = 0;
  let squares = 0;
  let worst = 0;
  let worstAt = 0;
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const x = a[i] as number;
    const y = b[i] as number;
    if (Object.is(x, y) || (Number.isNaN(x) && Number.isNaN(y)) || (x === y && !exact)) {
      if (Number.isFinite(x))
        [product, squares, largest] = [product + x * y, squares + x * x + y * y, Math.max(largest, Math.abs(y))];
      continue;
    }
    assert.ok(!exact && Number.isFinite(x) && Number.isFinite(y), `${label}[${i}]: ${x} for ${y}`);
    product += x * y;
    squares += x * x + y * y;
    largest = Math.max(largest, Math.abs(y));
    if (Math.abs(x - y) > worst) [worst, worstAt] = [Math.abs(x - y), i];
  }
  if (worst === 0) return;
  const half = dtype === 'f16' || dtype === 'bf16';
  const similarity = squares > 0 ? 1 - (2 * product) / squares : 0;
  const places = worst / (unit[dtype] * Math.sqrt(Math.max(1, half ? 1 : k)) * Math.max(largest, 1e-30));
  const where = `${label}[${worstAt}]: ${a[worstAt]} for ${b[worstAt]}`;
  const allowedPlaces = half ? halfPlaces : bound.places;
  const allowedSimilarity = half ? halfSimilarity[dtype] : bound.similarity;
  assert.ok(places <= allowedPlaces, `${where}: ${places.toFixed(2)} places over √K, ${allowedPlaces} allowed`);
  assert.ok(similarity <= allowedSimilarity, `${label}: similarity error ${similarity}, ${allowedSimilarity} allowed`);
}

function widen(data: HostArray, dtype: Dtype): ArrayLike<number> {
  if (dtype === 'bf16') return bf16ToF32(data as Uint16Array);
  return dtype === 'f16' ? f16ToF32(data as Uint16Array) : data;
}
