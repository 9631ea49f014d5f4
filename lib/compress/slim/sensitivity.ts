import type { PlanContext } from '../steps/step.ts';

/** Noise of this share of the output's standard deviation. */
const noiseShare = 0.15;

/**
 * How much the model's loss rises for each unit of squared error a token at the output of each MoE layer: noise is added to that output, and
 * the loss of the windows measured at the end. All layers are tried in one pass, each as a branch of its own.
 *
 * @returns [MoE layers], nats a token; never below a hundredth of the largest, as the smallest differences are noise themselves
 */
export async function layerSensitivity({ stream, source, report }: PlanContext): Promise<number[]> {
  const { layers } = source.config;
  const errors: number[] = [];
  await stream.embed();
  for (const [index, { block }] of layers.entries()) {
    report('measure the layers', index, layers.length);
    await stream.enter(index);
    await stream.leave();
    if (block.kind !== 'moe') continue;
    errors.push(addNoise(stream, errors.length + 1));
  }
  const losses = await stream.losses();
  const base = losses.get(0) as number;
  const rises = errors.map((error, at) => ((losses.get(at + 1) as number) - base) / error);
  const floor = Math.max(...rises) / 100;
  return rises.map((rise) => Math.max(rise, floor, Number.MIN_VALUE));
}

/** Forks a branch whose block output has noise in it; returns its squared error a token. */
function addNoise(stream: PlanContext['stream'], branch: number): number {
  const { hidden: width } = stream.config;
  let [sum, square, count] = [0, 0, 0];
  for (const { middle, hidden } of stream.states()) {
    for (let at = 0; at < hidden.length; at++) {
      const output = (hidden[at] as number) - (middle[at] as number);
      sum += output;
      square += output * output;
    }
    count += hidden.length;
  }
  const deviation = noiseShare * Math.sqrt(square / count - (sum / count) ** 2);
  const random = normal(branch);
  stream.fork(branch, (_, hidden) => hidden.map((value) => value + deviation * random()));
  return deviation ** 2 * width;
}

/** Normally distributed numbers, the same on every machine: a counter through a 32-bit mix, two by two (Box and Muller). */
function normal(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = (): number => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (((mixed ^ (mixed >>> 15)) >>> 0) + 0.5) / 2 ** 32;
  };
  let spare: number | undefined;
  return () => {
    if (spare !== undefined) {
      const value = spare;
      spare = undefined;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(uniform()));
    const angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}
