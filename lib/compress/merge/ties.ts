import { MoeError } from '../../errors.ts';

export interface TiesOptions {
  /** Share of each task vector's entries that stay, those of largest magnitude; 0 … 1. The paper: 0.2. */
  readonly keep: number;
}

export interface TiesMerge {
  /** f64 [parameters]: what is added to the base. */
  readonly merged: Float64Array;
  /**
   * i8 [parameters]: the elected sign, −1 or 1; 0 where all entries of all vectors add up to none and the majority has
   * none either.
   */
  readonly sign: Int8Array;
  /** Entries of each task vector that stayed. */
  readonly kept: readonly number[];
}

/**
 * TIES (arXiv 2306.01708, section 4): each task vector keeps its largest entries, each parameter takes the sign of its
 * sum, and the entries of that sign are averaged. A sum of zero takes the sign that most parameters have.
 *
 * @param vectors task vectors, other − base, f32 [parameters] each
 * @throws MoeError INVALID_ARGUMENT for a share out of range or vectors of unequal lengths
 */
export function tiesMerge(vectors: readonly Float32Array[], { keep }: TiesOptions): TiesMerge {
  const parameters = requireVectors(vectors);
  if (!(keep > 0 && keep <= 1)) {
    throw new MoeError('INVALID_ARGUMENT', { argument: 'keep', expected: 'a share in (0, 1]', received: String(keep) });
  }
  const trimmed = vectors.map((vector) => trim(vector, keep));
  const sums = new Float64Array(parameters);
  for (const { values } of trimmed) {
    for (let i = 0; i < parameters; i++) sums[i] = (sums[i] as number) + (values[i] as number);
  }
  const majority = Math.sign(sums.reduce((total, sum) => total + Math.sign(sum), 0));
  const sign = Int8Array.from(sums, (sum) => (sum === 0 ? majority : Math.sign(sum)));
  const merged = sums.map((_, i) => {
    let [sum, count] = [0, 0];
    for (const { values } of trimmed) {
      const value = values[i] as number;
      if (value * (sign[i] as number) > 0 || (sign[i] === 0 && value !== 0)) {
        sum += value;
        count++;
      }
    }
    return count > 0 ? sum / count : 0;
  });
  return { merged, sign, kept: trimmed.map(({ count }) => count) };
}

/**
 * The entries of at least the magnitude that ⌊keep·n⌋ + 1 of them have, as the authors' code cuts; the others are 0.
 */
function trim(vector: Float32Array, keep: number): { values: Float32Array; count: number } {
  const magnitudes = vector.map(Math.abs).sort();
  const stay = Math.floor(vector.length * keep);
  const threshold = magnitudes[Math.max(0, vector.length - stay - 1)] as number;
  const values = vector.map((value) => (Math.abs(value) >= threshold ? value : 0));
  return { values, count: vector.reduce((count, value) => count + Number(Math.abs(value) >= threshold), 0) };
}

/** Length of the vectors, which all have. */
export function requireVectors(vectors: readonly Float32Array[]): number {
  const lengths = new Set(vectors.map(({ length }) => length));
  const [length] = lengths;
  if (lengths.size === 1 && length) return length;
  throw new MoeError('INVALID_ARGUMENT', {
    argument: 'vectors',
    expected: 'vectors of one length',
    received: `lengths ${[...lengths].join(', ')}`,
  });
}
