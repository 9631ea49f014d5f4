import type { Yarn } from '../checkpoint/config.ts';
import type { RopeConfig } from './decoder-config.ts';

/**
 * f32 [headDim / 2]: θ^(−2i / headDim) / factor, rounded to f32 at each step as transformers does (RoFormer, section 3.2; linear
 * scaling divides positions, which is the same). With YaRN (section 3.4) the elements that turn fast are not divided.
 */
export function ropeFrequencies(rope: RopeConfig, headDim: number): Float32Array {
  const kept = rope.yarn ? keptShare(rope.yarn, rope.theta, headDim) : () => 0;
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const power = Math.fround(rope.theta ** Math.fround((2 * i) / headDim));
    const frequency = Math.fround(1 / power);
    const share = kept(i);
    return (frequency / rope.factor) * (1 - share) + frequency * share;
  });
}

/** How much of the frequency of pair i stays undivided: 1 for fast pairs, 0 for slow ones, a ramp between. */
function keptShare(yarn: Yarn, theta: number, headDim: number): (pair: number) => number {
  // The pair that turns `count` times over the original positions.
  const pairOf = (count: number): number =>
    (headDim * Math.log(yarn.originalPositions / (count * 2 * Math.PI))) / (2 * Math.log(theta));
  const [fast, slow] = [pairOf(yarn.betaFast), pairOf(yarn.betaSlow)];
  const low = Math.max(yarn.truncate ? Math.floor(fast) : fast, 0);
  const end = Math.min(yarn.truncate ? Math.ceil(slow) : slow, headDim - 1);
  const high = low === end ? end + 0.001 : end;
  return (pair) => 1 - Math.min(Math.max((pair - low) / (high - low), 0), 1);
}
