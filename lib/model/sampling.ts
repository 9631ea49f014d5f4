/** Chooses the next token from logits. */
import { invalid } from '../arguments.ts';

export interface SamplingOptions {
  /** 0: always the most likely token (ties go to the lower id). Default 0. */
  temperature?: number | undefined;
  /** In (0, 1]: samples from the fewest tokens that hold this share of the probability. Default 1. */
  topP?: number | undefined;
  /** An integer; the same seed gives the same text. Default: a random one. */
  seed?: number | undefined;
}

/** Chooses an id by logits f32 [vocabulary]; NaN counts as the lowest. */
export type Sampler = (logits: Float32Array) => number;

/** Throws INVALID_ARGUMENT. */
export function createSampler(options: SamplingOptions = {}): Sampler {
  const { temperature = 0, topP = 1, seed } = options;
  if (!(Number.isFinite(temperature) && temperature >= 0))
    throw invalid('temperature', 'a number of 0 or more', temperature);
  if (!(typeof topP === 'number' && topP > 0 && topP <= 1)) throw invalid('topP', 'a number above 0, at most 1', topP);
  if (seed !== undefined && !Number.isSafeInteger(seed)) throw invalid('seed', 'a safe integer', seed);
  if (temperature === 0) return mostLikely;
  const random = generator(seed ?? Math.floor(Math.random() * 2 ** 32));
  return (logits) => drawByShare(logits, temperature, topP, random());
}

/** Ties go to the lower id. */
export function mostLikely(logits: Float32Array): number {
  let best = 0;
  let highest = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] as number;
    if (logit > highest) {
      highest = logit;
      best = id;
    }
  }
  return best;
}

/**
 * Nucleus sampling (Holtzman et al., 2020, section 3.1): softmax(logits / temperature), the most likely ids until their sum
 * reaches topP, one of them by `uniform` in [0, 1). All in double precision.
 */
function drawByShare(logits: Float32Array, temperature: number, topP: number, uniform: number): number {
  const highest = logits[mostLikely(logits)] as number;
  // Without a finite maximum there is nothing to weigh.
  if (!Number.isFinite(highest)) return mostLikely(logits);
  const weights = new Float64Array(logits.length);
  let total = 0;
  for (let id = 0; id < logits.length; id++) {
    const weight = Math.exp(((logits[id] as number) - highest) / temperature);
    weights[id] = Number.isNaN(weight) ? 0 : weight;
    total += weights[id] as number;
  }
  const ids = nucleus(weights, total, topP);
  let rest = uniform * ids.reduce((sum, id) => sum + (weights[id] as number), 0);
  for (const id of ids) {
    rest -= weights[id] as number;
    if (rest < 0) return id;
  }
  return ids[ids.length - 1] as number;
}

/** Ids in falling order of weight (ties: the lower first), the fewest that hold `share` of `total`. */
function nucleus(weights: Float64Array, total: number, share: number): number[] {
  // An id below this cannot be among them: all such ids together weigh less than what is left out.
  const cutoff = ((1 - share) * total) / weights.length;
  const candidates: number[] = [];
  for (let id = 0; id < weights.length; id++) {
    const weight = weights[id] as number;
    if (weight > 0 && weight >= cutoff) candidates.push(id);
  }
  if (share === 1) return candidates;
  candidates.sort((a, b) => (weights[b] as number) - (weights[a] as number) || a - b);
  let sum = 0;
  const end = candidates.findIndex((id) => {
    sum += weights[id] as number;
    return sum >= share * total;
  });
  return end < 0 ? candidates : candidates.slice(0, end + 1);
}

/**
 * Uniform numbers in [0, 1) with 32 bits: xoshiro128** 1.1 (Blackman and Vigna), its state filled by SplitMix32 from the
 * seed's low and high words, joined by exclusive or.
 */
export function generator(seed: number): () => number {
  let mixed = (seed ^ Math.floor(seed / 2 ** 32)) | 0;
  const split = (): number => {
    mixed = (mixed + 0x9e3779b9) | 0;
    let z = mixed ^ (mixed >>> 16);
    z = Math.imul(z, 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return z ^ (z >>> 15);
  };
  let [a, b, c, d] = [split(), split(), split(), split()];
  const rotate = (x: number, bits: number): number => (x << bits) | (x >>> (32 - bits));
  return () => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9);
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotate(d, 11);
    return (result >>> 0) / 2 ** 32;
  };
}
