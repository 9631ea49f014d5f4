// Writes the weights of a qwen3_moe folder as GGUF, the form that llama.cpp reads: expert and attention matrices in a format of ggml,
// embedding in bf16, norms and router in f32.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Checkpoint, f32ToBf16 } from '../../lib/index.ts';
import { quantizeMatrix, types } from './ggml.mjs';

const alignment = 32;
const kinds = { u32: 4, i32: 5, f32: 6, string: 8, array: 9 };

class Bytes {
  #parts = [];
  length = 0;

  add(bytes) {
    this.#parts.push(bytes);
    this.length += bytes.length;
    return this;
  }
  number(kind, value) {
    const bytes = Buffer.alloc(4);
    if (kind === 'f32') bytes.writeFloatLE(value);
    else if (kind === 'i32') bytes.writeInt32LE(value);
    else bytes.writeUInt32LE(value);
    return this.add(bytes);
  }
  long(value) {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    return this.add(bytes);
  }
  string(text) {
    const bytes = Buffer.from(text);
    return this.long(bytes.length).add(bytes);
  }
  value(kind, value) {
    return kind === 'string' ? this.string(value) : this.number(kind, value);
  }
  pad() {
    return this.add(Buffer.alloc((alignment - (this.length % alignment)) % alignment));
  }
  join() {
    return Buffer.concat(this.#parts);
  }
}

/** `format`: a name of `types`. */
export async function writeGguf(folder, path, format) {
  const checkpoint = await Checkpoint.open(folder);
  const { config } = checkpoint;
  const tensors = await modelTensors(checkpoint, format);
  checkpoint.close();
  const entries = await metadata(folder, config);
  const head = new Bytes().add(Buffer.from('GGUF')).number('u32', 3).long(tensors.length).long(entries.length);
  for (const [key, kind, value] of entries) {
    head.string(key);
    if (!Array.isArray(value)) head.number('u32', kinds[kind]).value(kind, value);
    else {
      head.number('u32', kinds.array).number('u32', kinds[kind]).long(value.length);
      for (const one of value) head.value(kind, one);
    }
  }
  const data = new Bytes();
  for (const { name, shape, type, bytes } of tensors) {
    head.string(name).number('u32', shape.length);
    for (const size of shape.toReversed()) head.long(size);
    head.number('u32', types[type]).long(data.length);
    data.add(bytes).pad();
  }
  await writeFile(path, Buffer.concat([head.pad().join(), data.join()]));
}

async function metadata(folder, config) {
  const { model } = JSON.parse(await readFile(join(folder, 'tokenizer.json'), 'utf8'));
  const tokens = Object.entries(model.vocab)
    .sort(([, a], [, b]) => a - b)
    .map(([text]) => text);
  const end = config.eos_token_id;
  const own = (key, kind, value) => [`qwen3moe.${key}`, kind, value];
  return [
    ['general.architecture', 'string', 'qwen3moe'],
    own('context_length', 'u32', config.max_position_embeddings),
    own('embedding_length', 'u32', config.hidden_size),
    own('block_count', 'u32', config.num_hidden_layers),
    own('feed_forward_length', 'u32', config.intermediate_size),
    own('attention.head_count', 'u32', config.num_attention_heads),
    own('attention.head_count_kv', 'u32', config.num_key_value_heads),
    own('attention.key_length', 'u32', config.head_dim),
    own('attention.value_length', 'u32', config.head_dim),
    own('attention.layer_norm_rms_epsilon', 'f32', config.rms_norm_eps),
    own('rope.freq_base', 'f32', config.rope_parameters?.rope_theta ?? config.rope_theta),
    own('expert_count', 'u32', config.num_local_experts ?? config.num_experts),
    own('expert_used_count', 'u32', config.num_experts_per_tok),
    own('expert_feed_forward_length', 'u32', config.moe_intermediate_size),
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', 'gpt-2'],
    ['tokenizer.ggml.tokens', 'string', tokens],
    ['tokenizer.ggml.token_type', 'i32', tokens.map((_, id) => (id === end ? 3 : 1))],
    ['tokenizer.ggml.merges', 'string', model.merges.map((pair) => (Array.isArray(pair) ? pair.join(' ') : pair))],
    ['tokenizer.ggml.eos_token_id', 'u32', end],
  ];
}

async function modelTensors(checkpoint, format) {
  const { num_hidden_layers: layers, num_local_experts, num_experts, tie_word_embeddings: tied } = checkpoint.config;
  const made = [];
  const add = async (name, sources, type, stacked = false) => {
    const parts = [];
    let shape = [];
    for (const source of sources) {
      shape = [...checkpoint.entry(source).shape];
      const values = await checkpoint.readF32(source);
      if (type === 'f32') parts.push(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      else if (type === 'bf16') parts.push(new Uint8Array(f32ToBf16(values).buffer));
      else parts.push(quantizeMatrix(type, values, shape[0], shape[1]));
    }
    made.push({ name, shape: stacked ? [sources.length, ...shape] : shape, type, bytes: Buffer.concat(parts) });
  };
  await add('token_embd.weight', ['model.embed_tokens.weight'], 'bf16');
  for (let layer = 0; layer < layers; layer++) {
    const [from, to] = [`model.layers.${layer}`, `blk.${layer}`];
    await add(`${to}.attn_norm.weight`, [`${from}.input_layernorm.weight`], 'f32');
    await add(`${to}.ffn_norm.weight`, [`${from}.post_attention_layernorm.weight`], 'f32');
    for (const [ours, theirs] of [
      ['q_proj', 'attn_q'],
      ['k_proj', 'attn_k'],
      ['v_proj', 'attn_v'],
      ['o_proj', 'attn_output'],
    ])
      await add(`${to}.${theirs}.weight`, [`${from}.self_attn.${ours}.weight`], format);
    for (const head of ['q', 'k'])
      await add(`${to}.attn_${head}_norm.weight`, [`${from}.self_attn.${head}_norm.weight`], 'f32');
    await add(`${to}.ffn_gate_inp.weight`, [`${from}.mlp.gate.weight`], 'f32');
    const experts = Array.from(
      { length: num_local_experts ?? num_experts },
      (_, expert) => `${from}.mlp.experts.${expert}`,
    );
    for (const matrix of ['gate', 'up', 'down']) {
      const sources = experts.map((expert) => `${expert}.${matrix}_proj.weight`);
      await add(`${to}.ffn_${matrix}_exps.weight`, sources, format, true);
    }
  }
  await add('output_norm.weight', ['model.norm.weight'], 'f32');
  if (!tied) await add('output.weight', ['lm_head.weight'], 'bf16');
  return made;
}
