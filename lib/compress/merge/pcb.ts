import { MoeError } from '../../errors.ts';
import { requireVectors } from './ties.ts';

export interface PcbMerge {
  /** f64 [parameters]: what is added to the base. */
  readonly merged: Float64Array;
  /** Entries of each task vector that had a part in it. */
  readonly kept: readonly number[];
}

/** Share of the smallest and of the largest magnitudes of a vector that are drawn in before anything is compared. */
const tails = 0.0001;
/** Where no vector has a part, the mean is zero. */
const smallestScale = 1e-12;

/**
 * Parameter competition balancing (PCB, arXiv 2410.02396, section 4): an entry counts by how large it is in its own
 * vector, exp(n·s²) with s its magnitude between 0 and 1, and by how far all vectors agree with it, tanh of it times
 * the sum. Of each vector only the share `keep` of entries with the largest products has a part, in proportion to how
 * far it lies above the last of them.
 *
 * @param vectors task vectors, other − base, f32 [parameters] each
 * @param keep in (0, 1); the authors use 0.05 … 0.3
 * @throws MoeError INVALID_ARGUMENT for a share out of range or vectors of unequal lengths
 */
export function pcbMerge(vectors: readonly Float32Array[], keep: number): PcbMerge {
  const parameters = requireVectors(vectors);
  if (!(keep > 0 && keep < 1)) {
    throw new MoeError('INVALID_ARGUMENT', { argument: 'keep', expected: 'a share in (0, 1)', received: String(keep) });
  }
  const total = new Float64Array(parameters);
  for (const vector of vectors) {
    for (let i = 0; i < parameters; i++) total[i] = (total[i] as number) + (vector[i] as number);
  }
  const sum = new Float64Array(parameters);
  const scales = new Float64Array(parameters);
  const kept = vectors.map((vector) => {
    const magnitudes = clamp(Float64Array.from(vector, Math.abs), tails, tails);
    const sizes = normalize(magnitudes);
    const competition = sizes.map(
      (size, i) => Math.exp(vectors.length * size * size) * Math.tanh((vector[i] as number) * (total[i] as number)),
    );
    const scale = normalize(clamp(competition, 1 - keep, 0));
    let count = 0;
    for (let i = 0; i < parameters; i++) {
      const own = scale[i] as number;
      if (own === 0) continue;
      count++;
      sum[i] = (sum[i] as number) + Math.sign(vector[i] as number) * (magnitudes[i] as number) * own;
      scales[i] = (scales[i] as number) + own;
    }
    return count;
  });
  return { merged: sum.map((value, i) => value / Math.max(scales[i] as number, smallestScale)), kept };
}

/** Values below the share `low` of them, and above all but the share `high`, are drawn in to those limits. */
function clamp(values: Float64Array, low: number, high: number): Float64Array {
  const sorted = values.slice().sort();
  const least = sorted[Math.floor(values.length * low)] as number;
  const most = sorted[Math.max(0, Math.floor(values.length * (1 - high) - 1))] as number;
  return values.map((value) => Math.min(Math.max(value, least), most));
}

/** To 0 … 1; all zeros where there is nothing to tell apart. */
function normalize(values: Float64Array): Float64Array {
  const [least, most] = values.reduce(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)] as [number, number],
    [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY] as [number, number],
  );
  return values.map((value) => (most > least ? (value - least) / (most - least) : 0));
}
