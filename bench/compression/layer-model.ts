/** A model of one layer of OLMoE's shape with random weights, and calibration windows of random ids. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SafetensorsWriter, type WriterEntry } from '../../lib/checkpoint/writer.ts';
import { f32ToBf16 } from '../../lib/tensor/half.ts';

export const [experts, hidden, width] = [64, 2048, 1024];
/** In 16 bits. */
export const layerBytes = experts * 3 * hidden * width * 2;
const [vocabulary, windowTokens] = [4096, 256];
/** Experts of a file. */
const shard = 16;

export async function writeLayerModel(folder: string, tokens: number): Promise<void> {
  await mkdir(folder, { recursive: true });
  const layer = 'model.layers.0';
  const matrix = (name: string, ...shape: number[]): WriterEntry => ({ name: `${name}.weight`, dtype: 'BF16', shape });
  const rest = [
    matrix('model.embed_tokens', vocabulary, hidden),
    matrix('model.norm', hidden),
    matrix('lm_head', vocabulary, hidden),
    matrix(`${layer}.input_layernorm`, hidden),
    matrix(`${layer}.post_attention_layernorm`, hidden),
    ...['q', 'k', 'v', 'o'].map((name) => matrix(`${layer}.self_attn.${name}_proj`, hidden, hidden)),
    ...['q', 'k'].map((name) => matrix(`${layer}.self_attn.${name}_norm`, hidden)),
    matrix(`${layer}.mlp.gate`, experts, hidden),
  ];
  const files = [rest];
  for (let first = 0; first < experts; first += shard) {
    files.push(
      Array.from({ length: shard }, (_, at) => `${layer}.mlp.experts.${first + at}`).flatMap((expert) => [
        matrix(`${expert}.gate_proj`, width, hidden),
        matrix(`${expert}.up_proj`, width, hidden),
        matrix(`${expert}.down_proj`, hidden, width),
      ]),
    );
  }
  const random = uniform(1);
  const weightMap: Record<string, string> = {};
  for (const [at, entries] of files.entries()) {
    const file = `model-${at + 1}-of-${files.length}.safetensors`;
    const writer = await SafetensorsWriter.create(join(folder, file), entries, { format: 'pt' });
    for (const { name, shape } of entries) {
      const [rows = 1, columns = 1] = shape;
      // Norms are ones; rows of matrices have unit length.
      const scale = Math.sqrt(3 / columns);
      const values = new Float32Array(rows * columns).fill(1);
      if (shape.length > 1) for (let i = 0; i < values.length; i++) values[i] = scale * random();
      await writer.write(name, f32ToBf16(values));
      weightMap[name] = file;
    }
    await writer.finish();
  }
  const ids = Int32Array.from({ length: tokens }, () => Math.floor(((random() + 1) / 2) * vocabulary));
  const windows = { name: 'calibration', dtype: 'I32', shape: [tokens / windowTokens, windowTokens] } as const;
  const writer = await SafetensorsWriter.create(join(folder, 'windows.safetensors'), [windows]);
  await writer.write(windows.name, ids);
  await writer.finish();
  await writeFile(
    join(folder, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: {}, weight_map: weightMap }),
  );
  const config = {
    architectures: ['OlmoeForCausalLM'],
    model_type: 'olmoe',
    hidden_size: hidden,
    intermediate_size: width,
    num_experts: experts,
    num_experts_per_tok: 8,
    num_hidden_layers: 1,
    num_attention_heads: 16,
    num_key_value_heads: 16,
    vocab_size: vocabulary,
    max_position_embeddings: 4096,
    hidden_act: 'silu',
  };
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
}

/** In [−1, 1): xorshift, the same on every machine. */
function uniform(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state / 2 ** 31;
  };
}
