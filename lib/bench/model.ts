/** Whole models: prefill of many tokens, and decoding of one after a prompt. */
import { MoeError } from '../errors.ts';
import type { Model } from '../model/model.ts';
import { slotsOf, widthOf } from '../moe/spec.ts';
import { formatBytes, isInteger, type WeightFormat } from '../weight/format.ts';
import type { Cost, LimitMeter } from './limits.ts';
import { median, type Timed, type Timing } from './rows.ts';

/** Tokens in the cache before one is decoded. */
const promptTokens = 128;
const decodedTokens = 64;

/**
 * Rows of a model: of a number of tokens, the time to the first token after a prompt of so many; of 1, the time of a token behind a
 * prompt of 128. `weights`: what the experts were opened with, `stored` where undefined.
 */
export async function modelRows(
  model: Model,
  shape: string,
  weights: { readonly text: string; readonly format: WeightFormat | undefined },
  tokens: readonly number[],
  { rounds = 5 }: Timing,
  meter: LimitMeter,
): Promise<Timed[]> {
  const { context, vocabulary } = model.config;
  const longest = Math.max(...tokens, promptTokens + decodedTokens);
  if (longest > context) {
    const [expected, received] = [`at most ${context} tokens, the model's context`, String(longest)];
    throw new MoeError('CONTEXT_EXCEEDED', { argument: 'tokens', expected, received });
  }
  const prompt = (count: number): Int32Array =>
    Int32Array.from({ length: count }, () => Math.floor(Math.random() * vocabulary));
  const timed: Timed[] = [];
  for (const count of tokens) {
    const time = async (): Promise<number[]> => {
      const times: number[] = [];
      // The first round compiles and touches memory.
      for (let round = -1; round < rounds; round++) {
        const started = performance.now();
        let first = started;
        const options = { maxTokens: count === 1 ? decodedTokens + 1 : 1, stopAtEos: false };
        for await (const _ of model.generate(prompt(count === 1 ? promptTokens : count), options)) {
          if (first === started) first = performance.now();
        }
        if (round < 0) continue;
        times.push(count === 1 ? (performance.now() - first) / decodedTokens : first - started);
      }
      return times;
    };
    const { result: times, readBytesPerSecond } = await meter.during(time, 2);
    const cost = modelCost(model, weights.format, count);
    const ms = median(times);
    timed.push({ work: 'model', shape, tokens: count, weights: weights.text, ms, readBytesPerSecond, ...cost });
  }
  return timed;
}

/** Every weight once, but of the experts those that tokens are expected to choose; attention to the cache is not counted. */
export function modelCost(model: Model, format: WeightFormat | undefined, tokens: number): Cost {
  const { config } = model;
  const { hidden, vocabulary } = config;
  const experts: WeightFormat = format ?? { format: 'bf16' };
  let bytes = model.memory().weights - 2 * vocabulary * hidden; // the table of embeddings: only rows are read
  const operations = { f32: 0, bf16: 2 * vocabulary * hidden, int8: 0 };
  const { heads, kvHeads, headDim } = config.attention;
  const units = isInteger(experts) ? 'int8' : experts.format === 'f32' ? 'f32' : 'bf16';
  for (const { block } of config.layers) {
    operations.bf16 += 2 * tokens * hidden * headDim * (2 * heads + 2 * kvHeads);
    if (block.kind === 'dense') {
      operations[units] += 2 * tokens * 3 * hidden * block.width;
      continue;
    }
    const { router } = block.moe;
    const idle = (1 - router.topK / router.experts) ** tokens;
    operations.bf16 += 2 * tokens * hidden * router.experts;
    for (let slot = 0; slot < slotsOf(block.moe); slot++) {
      const width = widthOf(block.moe, slot);
      bytes -= idle * (formatBytes(experts, 2 * width, hidden) + formatBytes(experts, hidden, width));
      operations[units] += (2 * tokens * router.topK * 3 * hidden * width) / slotsOf(block.moe);
    }
    operations[units] += 2 * tokens * 3 * hidden * block.moe.sharedWidth;
  }
  return { bytes, operations };
}
