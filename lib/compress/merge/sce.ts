import { MoeError } from '../../errors.ts';
import { requireVectors } from './ties.ts';

/** Shares below it are no agreement. */
const smallestShare = 1e-6;

/**
 * SCE (FuseChat, arXiv 2408.07990, section 3.3): selects the entries whose variance over the task vectors is largest,
 * calculates each vector's share from its energy in them, and erases what does not have the sign of the sum; the rest
 * is averaged by the shares.
 *
 * @param vectors task vectors, other − base, f32 [parameters] each
 * @param keep share of the varying entries that are selected, in (0, 1]
 * @returns f64 [parameters]: what is added to the base
 * @throws MoeError INVALID_ARGUMENT for a share out of range or vectors of unequal lengths
 */
export function sceMerge(vectors: readonly Float32Array[], keep: number): Float64Array {
  const parameters = requireVectors(vectors);
  if (!(keep > 0 && keep <= 1)) {
    throw new MoeError('INVALID_ARGUMENT', { argument: 'keep', expected: 'a share in (0, 1]', received: String(keep) });
  }
  const selected = keep < 1 ? mostVarying(vectors, parameters, keep) : new Uint8Array(parameters).fill(1);
  const energies = vectors.map((vector) =>
    vector.reduce((sum, value, i) => (selected[i] ? sum + value * value : sum), 0),
  );
  const total = energies.reduce((sum, energy) => sum + energy, 0);
  const shares = energies.map((energy) => (total > 0 ? energy / total : 1 / vectors.length));
  return Float64Array.from(selected, (chosen, i) => {
    if (!chosen) return 0;
    const sign = vectors.reduce((sum, vector) => sum + (vector[i] as number), 0) >= 0 ? 1 : -1;
    let [sum, agreeing] = [0, 0];
    vectors.forEach((vector, at) => {
      const value = vector[i] as number;
      if (value * sign <= 0) return;
      sum += (shares[at] as number) * value;
      agreeing += shares[at] as number;
    });
    return sum / Math.max(agreeing, smallestShare);
  });
}

/** 1 where the variance is among the largest ⌊keep · varying entries⌋; the lower index where two are equal. */
function mostVarying(vectors: readonly Float32Array[], parameters: number, keep: number): Uint8Array {
  const variance = Float64Array.from({ length: parameters }, (_, i) => {
    const mean = vectors.reduce((sum, vector) => sum + (vector[i] as number), 0) / vectors.length;
    return vectors.reduce((sum, vector) => sum + ((vector[i] as number) - mean) ** 2, 0) / vectors.length;
  });
  const order = [...variance.keys()].sort((a, b) => (variance[b] as number) - (variance[a] as number) || a - b);
  const varying = variance.reduce((count, value) => count + Number(value > 0), 0);
  const selected = new Uint8Array(parameters);
  for (const index of order.slice(0, Math.floor(varying * keep))) selected[index] = 1;
  return selected;
}
