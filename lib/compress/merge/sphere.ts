/**
 * Means of directions: vectors (flattened matrices, or their differences from a base) are points on a sphere times
 * their length.
 */
import { MoeError } from '../../errors.ts';
import { requireVectors } from './ties.ts';

/** Lengths and angles below it count as none. */
const smallest = 1e-8;
const mostSteps = 50;

/**
 * Multi-SLERP: the mean of the vectors' directions, moved by their mean offset in the tangent space there; the length
 * is the mean of their lengths.
 *
 * @param vectors f32 [length] each
 * @param shares of the vectors, which add up to 1
 * @returns f64 [length]
 * @throws MoeError INVALID_ARGUMENT for vectors of unequal lengths, or whose directions cancel out
 */
export function multiSlerp(vectors: readonly Float32Array[], shares: readonly number[]): Float64Array {
  const { directions, meanLength, start } = onSphere(vectors, shares);
  const offset = new Float64Array(start.length);
  directions.forEach((direction, at) => {
    addScaled(offset, direction, shares[at] as number);
    addScaled(offset, start, -(shares[at] as number) * dot(direction, start));
  });
  return follow(start, offset).map((value) => value * meanLength);
}

/**
 * The Karcher mean: the direction with the least weighted sum of squared angles to those of the vectors, by steps in
 * its tangent space; the length is the mean of their lengths. Arguments, result and errors as for {@link multiSlerp}.
 */
export function karcherMean(vectors: readonly Float32Array[], shares: readonly number[]): Float64Array {
  const { directions, meanLength, start } = onSphere(vectors, shares);
  let mean: Float64Array = start;
  for (let step = 0; step < mostSteps; step++) {
    const offset = new Float64Array(mean.length);
    directions.forEach((direction, at) => {
      const cosine = Math.min(1, Math.max(-1, dot(direction, mean)));
      const angle = Math.acos(cosine);
      if (angle < smallest) return;
      const factor = ((shares[at] as number) * angle) / Math.sin(angle);
      addScaled(offset, direction, factor);
      addScaled(offset, mean, -factor * cosine);
    });
    mean = follow(mean, offset);
    if (lengthOf(offset) < smallest) break;
  }
  return mean.map((value) => value * meanLength);
}

/** Unit vectors, the mean of the lengths, and the direction of the mean of the unit vectors. */
function onSphere(vectors: readonly Float32Array[], shares: readonly number[]) {
  const start = new Float64Array(requireVectors(vectors));
  let meanLength = 0;
  const directions = vectors.map((vector, at) => {
    const length = lengthOf(vector);
    meanLength += (shares[at] as number) * length;
    const direction = Float64Array.from(vector, (value) => (length > 0 ? value / length : 0));
    addScaled(start, direction, shares[at] as number);
    return direction;
  });
  const length = lengthOf(start);
  if (!(length > smallest)) {
    throw new MoeError('INVALID_ARGUMENT', {
      argument: 'vectors',
      expected: 'directions that do not cancel out',
      received: `a mean direction of length ${length}`,
    });
  }
  return { directions, meanLength, start: start.map((value) => value / length) };
}

/** Where the great circle from a point along a tangent leads. */
function follow(point: Float64Array, tangent: Float64Array): Float64Array {
  const angle = lengthOf(tangent);
  if (angle < smallest) return point;
  const [cosine, sine] = [Math.cos(angle), Math.sin(angle) / angle];
  return point.map((value, i) => cosine * value + sine * (tangent[i] as number));
}

function lengthOf(vector: ArrayLike<number>): number {
  return Math.sqrt(dot(vector, vector));
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function addScaled(to: Float64Array, from: Float64Array, factor: number): void {
  for (let i = 0; i < to.length; i++) to[i] = (to[i] as number) + factor * (from[i] as number);
}
