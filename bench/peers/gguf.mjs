// Writes a qwen3_moe or olmoe folder as GGUF, the form that llama.cpp reads: expert and attention matrices in a format of ggml,
// embedding and head in bf16, norms and router in f32.
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { f32ToBf16 } from '../../lib/index.ts';
import { withDecoder } from './decoder.mjs';
import { matrixBytes, quantizeMatrix, types } from './ggml.mjs';

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
  join() {
    return Buffer.concat(this.#parts);
  }
}

const padding = (length) => Buffer.alloc((alignment - (length % alignment)) % alignment);

/** `format`: a name of `types`. */
export async function writeGguf(folder, path, format) {
  const file = await open(path, 'w');
  try {
    await withDecoder(folder, async (sizes, read) => {
      const tensors = modelTensors(sizes, format);
      await file.writeFile(await header(folder, sizes, tensors));
      for (const { sources, type, shape } of tensors) {
        for (const source of sources) await file.writeFile(encode(type, await read(source), shape));
        await file.writeFile(padding(tensorBytes({ type, shape })));
      }
    });
  } finally {
    await file.close();
  }
}

function encode(type, values, shape) {
  if (type === 'bf16') return new Uint8Array(f32ToBf16(values).buffer);
  const columns = shape.at(-1);
  return quantizeMatrix(type, values, values.length / columns, columns);
}

function tensorBytes({ type, shape }) {
  return matrixBytes(
    type,
    shape.slice(0, -1).reduce((a, b) => a * b, 1),
    shape.at(-1),
  );
}

async function header(folder, sizes, tensors) {
  const entries = await metadata(folder, sizes);
  const bytes = new Bytes().add(Buffer.from('GGUF')).number('u32', 3).long(tensors.length).long(entries.length);
  for (const [key, kind, value] of entries) {
    bytes.string(key);
    if (!Array.isArray(value)) bytes.number('u32', kinds[kind]).value(kind, value);
    else {
      bytes.number('u32', kinds.array).number('u32', kinds[kind]).long(value.length);
      for (const one of value) bytes.value(kind, one);
    }
  }
  let offset = 0;
  for (const tensor of tensors) {
    const { name, shape, type } = tensor;
    bytes.string(name).number('u32', shape.length);
    for (const size of shape.toReversed()) bytes.long(size);
    bytes.number('u32', types[type]).long(offset);
    const length = tensorBytes(tensor);
    offset += length + padding(length).length;
  }
  return bytes.add(padding(bytes.length)).join();
}

async function metadata(folder, sizes) {
  const { type, context, hidden, layers, width, heads, kvHeads, headDim, epsilon, theta, experts, topK } = sizes;
  const architecture = type.replace('_', '');
  const own = (key, kind, value) => [`${architecture}.${key}`, kind, value];
  const { tokens, merges } = await vocabularyOf(folder, sizes);
  return [
    ['general.architecture', 'string', architecture],
    own('context_length', 'u32', context),
    own('embedding_length', 'u32', hidden),
    own('block_count', 'u32', layers),
    own('feed_forward_length', 'u32', width),
    own('expert_feed_forward_length', 'u32', width),
    own('attention.head_count', 'u32', heads),
    own('attention.head_count_kv', 'u32', kvHeads),
    own('attention.key_length', 'u32', headDim),
    own('attention.value_length', 'u32', headDim),
    own('attention.layer_norm_rms_epsilon', 'f32', epsilon),
    own('rope.freq_base', 'f32', theta),
    own('expert_count', 'u32', experts),
    own('expert_used_count', 'u32', topK),
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', 'gpt-2'],
    ['tokenizer.ggml.tokens', 'string', tokens],
    ['tokenizer.ggml.token_type', 'i32', tokens.map((_, id) => (id === sizes.eos ? 3 : 1))],
    ['tokenizer.ggml.merges', 'string', merges],
    ['tokenizer.ggml.eos_token_id', 'u32', sizes.eos ?? 0],
  ];
}

/** Names stand for the tokens of a folder without a tokenizer: only ids are timed. */
async function vocabularyOf(folder, { vocabulary }) {
  const text = await readFile(join(folder, 'tokenizer.json'), 'utf8').catch(() => undefined);
  if (text === undefined) return { tokens: Array.from({ length: vocabulary }, (_, id) => `t${id}`), merges: [] };
  const { model } = JSON.parse(text);
  const tokens = Object.entries(model.vocab).sort(([, a], [, b]) => a - b);
  const merges = model.merges.map((pair) => (Array.isArray(pair) ? pair.join(' ') : pair));
  return { tokens: tokens.map(([name]) => name), merges };
}

/** [{ name, shape, type, sources }]; more than one source are stacked. */
function modelTensors(sizes, format) {
  const { names, hidden, vocabulary, layers, heads, kvHeads, headDim, queryKeyNorm, experts, width, tied } = sizes;
  const queries = heads * headDim;
  const keys = kvHeads * headDim;
  const tensors = [];
  const add = (name, sources, shape, type) => tensors.push({ name: `${name}.weight`, sources, shape, type });
  add('token_embd', [names.embedding], [vocabulary, hidden], 'bf16');
  for (let layer = 0; layer < layers; layer++) {
    const layerNames = names.layer(layer);
    const own = (name, source, shape, type) => add(`blk.${layer}.${name}`, [source].flat(), shape, type);
    own('attn_norm', layerNames.inputNorm, [hidden], 'f32');
    own('ffn_norm', layerNames.blockNorm, [hidden], 'f32');
    own('attn_q', layerNames.query, [queries, hidden], format);
    own('attn_k', layerNames.key, [keys, hidden], format);
    own('attn_v', layerNames.value, [keys, hidden], format);
    own('attn_output', layerNames.output, [hidden, queries], format);
    own('attn_q_norm', layerNames.queryNorm, [queryKeyNorm === 'head' ? headDim : queries], 'f32');
    own('attn_k_norm', layerNames.keyNorm, [queryKeyNorm === 'head' ? headDim : keys], 'f32');
    own('ffn_gate_inp', layerNames.moe.router, [experts, hidden], 'f32');
    for (const matrix of ['gate', 'up', 'down']) {
      const sources = Array.from({ length: experts }, (_, expert) => layerNames.moe.expert(expert)[matrix]);
      const shape = matrix === 'down' ? [experts, hidden, width] : [experts, width, hidden];
      own(`ffn_${matrix}_exps`, sources, shape, format);
    }
  }
  add('output_norm', [names.finalNorm], [hidden], 'f32');
  if (!tied) add('output', [names.head], [vocabulary, hidden], 'bf16');
  return tensors;
}
