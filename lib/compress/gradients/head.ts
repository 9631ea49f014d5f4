/** The loss of a window, and back through head and final norm. */
import type { TensorSource } from '../../checkpoint/tensor-source.ts';
import type { DecoderConfig, DecoderNames } from '../../model/decoder-config.ts';
import { productF32 } from '../numerics.ts';
import { rmsNorm, rmsNormGradient } from './norm.ts';

/**
 * Mean cross-entropy of the tokens behind the first, in nats, and its gradient by what the last layer gives.
 *
 * @param x f32 [tokens, hidden]
 */
export async function headGradient(
  source: TensorSource,
  config: DecoderConfig,
  names: DecoderNames,
  ids: Int32Array,
  x: Float32Array,
): Promise<{ loss: number; gradient: Float32Array }> {
  const { hidden, vocabulary, epsilon } = config;
  const tokens = ids.length;
  const norm = await source.readF32(`${names.finalNorm}.weight`);
  const head = await source.readF32(`${config.tied ? names.embedding : names.head}.weight`);
  const shape = { rows: tokens, columns: vocabulary, depth: hidden, transposed: true };
  const logits = await productF32(rmsNorm(x, norm, epsilon), head, shape);
  const loss = crossEntropy(logits, vocabulary, ids.subarray(1));
  const toInput = await productF32(logits, head, { rows: tokens, columns: hidden, depth: vocabulary });
  return { loss, gradient: rmsNormGradient(x, norm, epsilon, toInput) };
}

/** Mean over the targets; the logits [tokens, vocabulary] become its gradient, 0 for the tokens without a target. */
function crossEntropy(logits: Float32Array, vocabulary: number, targets: Int32Array): number {
  let loss = 0;
  for (const [token, target] of targets.entries()) {
    const row = logits.subarray(token * vocabulary, (token + 1) * vocabulary);
    const highest = row.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
    let total = 0;
    for (const value of row) total += Math.exp(value - highest);
    loss += Math.log(total) + highest - (row[target] as number);
    for (let id = 0; id < vocabulary; id++) {
      const share = Math.exp((row[id] as number) - highest) / total;
      row[id] = (share - (id === target ? 1 : 0)) / targets.length;
    }
  }
  logits.fill(0, targets.length * vocabulary);
  return loss / targets.length;
}
