/** A model folder of a public shape with random weights, to time whole models that are not at hand. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SafetensorsWriter } from '../checkpoint/writer.ts';
import { MoeError } from '../errors.ts';
import { familyOf } from '../model/family.ts';
import { decoderNeeds } from '../model/weights.ts';
import { f32ToBf16 } from '../tensor/half.ts';
import { randomFloats } from './data.ts';
import type { BenchShape } from './shapes.ts';

/** `model_type` and words in the vocabulary of the shapes whose family node-moe runs. */
const models: Readonly<Record<string, { family: string; vocabulary: number }>> = {
  'qwen3-30b-a3b': { family: 'qwen3_moe', vocabulary: 151_936 },
  olmoe: { family: 'olmoe', vocabulary: 50_304 },
  'mixtral-8x7b': { family: 'mixtral', vocabulary: 32_000 },
};

/** Writes config.json and bf16 weights of `layers` layers into an existing folder. Throws UNSUPPORTED, FILE_UNWRITABLE. */
export async function writeRandomModel(folder: string, shape: BenchShape, layers: number): Promise<void> {
  const model = models[shape.preset];
  if (!model) {
    const [expected, received] = [Object.keys(models).join(', '), shape.preset];
    throw new MoeError('UNSUPPORTED', { argument: 'shape', expected, received });
  }
  const { hidden, intermediate, experts, topK, renormalize, heads, kvHeads, headDim } = shape;
  const config = {
    model_type: model.family,
    vocab_size: model.vocabulary,
    hidden_size: hidden,
    intermediate_size: intermediate,
    moe_intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    num_experts: experts,
    num_local_experts: experts,
    num_experts_per_tok: topK,
    norm_topk_prob: renormalize,
    hidden_act: 'silu',
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
  };
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
  const family = familyOf(config);
  const needs = [...decoderNeeds(family.config(config), family.names)];
  const sizeOf = (of: readonly number[]): number => of.reduce((a, b) => a * b, 1);
  const values = new Uint16Array(Math.max(...needs.map((need) => sizeOf(need.shape))));
  const some = f32ToBf16(randomFloats(Math.min(values.length, 65_521)).map((value) => value / 16));
  for (let at = 0; at < values.length; at += some.length) values.set(some.subarray(0, values.length - at), at);
  const entries = needs.map(({ name, shape: of }) => ({ name, dtype: 'BF16', shape: of }) as const);
  await using writer = await SafetensorsWriter.create(join(folder, 'model.safetensors'), entries);
  for (const need of needs) await writer.write(need.name, values.subarray(0, sizeOf(need.shape)));
  await writer.finish();
}
