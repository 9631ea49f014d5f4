// Writes a qwen3_moe or olmoe folder as ONNX, the form that transformers.js runs: matrices as MatMulNBits and QMoE of 4 or 8 bits in
// blocks of 32, embedding, router and norms in f32, and the head at 8 bits, because ONNX Runtime has no fast 16-bit product on a CPU.
// The inputs and outputs are those of transformers.js's decoders; a graph of its own operations is what ONNX Runtime is fastest at.
import { closeSync, openSync, writeSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { withDecoder } from './decoder.mjs';
import { contrib, dtypes, OnnxGraph } from './onnx-model.mjs';
import { quantizeRows } from './weights.mjs';

const block = 32;
const alignment = 64;

/** transformers.js's name of a model of so many bits, and the end of its file's name. */
export const onnxForms = { 4: { dtype: 'q4', suffix: '_q4' }, 8: { dtype: 'q8', suffix: '_quantized' } };

/** Writes config.json and onnx/model….onnx with its data into `target`. */
export async function writeOnnx(folder, target, bits) {
  await mkdir(join(target, 'onnx'), { recursive: true });
  const path = join(target, 'onnx', `model${onnxForms[bits].suffix}.onnx`);
  const file = openSync(`${path}_data`, 'w');
  let offset = 0;
  const store = (bytes) => {
    for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done, bytes.length - done, offset + done);
    const place = { location: `${basename(path)}_data`, offset, length: bytes.length };
    offset += Math.ceil(bytes.length / alignment) * alignment;
    return place;
  };
  try {
    await withDecoder(folder, async (sizes, read) => {
      const decoder = new DecoderGraph(sizes, read, bits, store);
      await writeFile(path, await decoder.encode());
      await writeFile(join(target, 'config.json'), JSON.stringify(configOf(sizes)));
    });
  } finally {
    closeSync(file);
  }
}

/** transformers.js takes the sizes of the cache from it; it knows no olmoe, whose decoder has the same inputs and outputs. */
function configOf({ hidden, layers, heads, kvHeads, headDim, vocabulary }) {
  return {
    model_type: 'qwen3_moe',
    architectures: ['Qwen3MoeForCausalLM'],
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    vocab_size: vocabulary,
  };
}

class DecoderGraph {
  #sizes;
  #read;
  #bits;
  #graph;

  constructor(sizes, read, bits, store) {
    this.#sizes = sizes;
    this.#read = read;
    this.#bits = bits;
    this.#graph = new OnnxGraph(store);
  }

  async encode() {
    const { names, layers, kvHeads, headDim, hidden, vocabulary, tied } = this.#sizes;
    const graph = this.#graph;
    const table = await this.#read(names.embedding);
    let x = graph.add('Gather', [graph.constant(table, [vocabulary, hidden], 'f32'), 'input_ids']);
    const lengths = this.#lengths();
    const rope = this.#ropeTables();
    for (let layer = 0; layer < layers; layer++) x = await this.#layer(x, layer, lengths, rope);
    const end = graph.constant(BigInt64Array.of(2n ** 63n - 1n), [1], 'i64');
    const one = this.#integers(1);
    const begin = graph.add('Reshape', [graph.add('Neg', ['num_logits_to_keep']), one]);
    const last = graph.add('Slice', [await this.#norm(x, names.finalNorm), begin, end, one]);
    const headRows = tied ? table : await this.#read(names.head);
    this.#product(last, [headRows], vocabulary, hidden, 8, ['logits']);
    const token = (name) => ({
      name,
      dtype: 'i64',
      shape: ['batch_size', name === 'attention_mask' ? 'total' : 'tokens'],
    });
    const cache = (side, length) =>
      Array.from({ length: layers }, (_, layer) =>
        ['key', 'value'].map((half) => ({
          ...{ name: `${side}.${layer}.${half}`, dtype: 'f32', shape: ['batch_size', kvHeads, length, headDim] },
        })),
      ).flat();
    return graph.encode(
      [
        ...[token('input_ids'), token('attention_mask'), { name: 'num_logits_to_keep', dtype: 'i64', shape: [] }],
        ...cache('past_key_values', 'past'),
      ],
      [{ name: 'logits', dtype: 'f32', shape: ['batch_size', 'kept', vocabulary] }, ...cache('present', 'total')],
    );
  }

  async #layer(x, layer, [last, total], [cosine, sine]) {
    const { hidden, heads, kvHeads, headDim } = this.#sizes;
    const graph = this.#graph;
    const names = this.#sizes.names.layer(layer);
    const rows = await this.#norm(x, names.inputNorm);
    const linear = async (input, name, outputs, columns) =>
      this.#product(input, [await this.#read(name)], outputs, columns, this.#bits);
    const query = await linear(rows, names.query, heads * headDim, hidden);
    const key = await linear(rows, names.key, kvHeads * headDim, hidden);
    const value = await linear(rows, names.value, kvHeads * headDim, hidden);
    const attended = graph.add(
      'GroupQueryAttention',
      [
        await this.#headNorm(query, names.queryNorm, heads),
        await this.#headNorm(key, names.keyNorm, kvHeads),
        ...[value, `past_key_values.${layer}.key`, `past_key_values.${layer}.value`, last, total, cosine, sine],
      ],
      {
        domain: contrib,
        attributes: { num_heads: heads, kv_num_heads: kvHeads, do_rotary: 1 },
        outputs: [`attended${layer}`, `present.${layer}.key`, `present.${layer}.value`],
      },
    );
    const behind = graph.add('Add', [x, await linear(attended, names.output, hidden, heads * headDim)]);
    return graph.add('Add', [behind, await this.#experts(await this.#norm(behind, names.blockNorm), names.moe)]);
  }

  async #experts(rows, names) {
    const { hidden, width, experts, topK, renormalize } = this.#sizes;
    const graph = this.#graph;
    const router = await this.#read(names.router);
    const transposed = Float32Array.from(router, (_, at) => router[(at % experts) * hidden + Math.floor(at / experts)]);
    const logits = graph.add('MatMul', [rows, graph.constant(transposed, [hidden, experts], 'f32')]);
    const inward = [];
    const outward = [];
    for (let expert = 0; expert < experts; expert++) {
      const { gate, up, down } = names.expert(expert);
      inward.push(interleave(await this.#read(gate), await this.#read(up), hidden));
      outward.push(await this.#read(down));
    }
    const inputs = [
      ...[rows, graph.add('Reshape', [logits, this.#integers(-1, experts)])],
      ...[...this.#quantized(inward, [experts, 2 * width, hidden], this.#bits), ''],
      ...[...this.#quantized(outward, [experts, hidden, width], this.#bits), ''],
    ];
    const attributes = {
      ...{ k: topK, activation_type: 'swiglu', swiglu_fusion: 1, normalize_routing_weights: renormalize ? 1 : 0 },
      ...{ expert_weight_bits: this.#bits, block_size: block },
    };
    return graph.add('QMoE', inputs, { domain: contrib, attributes });
  }

  /** input · Wᵀ with W [rows, columns]. */
  #product(input, matrices, rows, columns, bits, outputs) {
    const [codes, scales] = this.#quantized(matrices, [rows, columns], bits, true);
    const attributes = { K: columns, N: rows, bits, block_size: block, accuracy_level: 4 };
    return this.#graph.add('MatMulNBits', [input, codes, scales], { domain: contrib, attributes, outputs });
  }

  /** Codes and scales of matrices one after the other. `split`: codes are [rows, blocks, bytes of a block], else [rows, bytes]. */
  #quantized(matrices, shape, bits, split = false) {
    const columns = shape.at(-1);
    const rows = shape.slice(0, -1);
    const count = rows.reduce((a, b) => a * b, 1);
    const codes = new Uint8Array((count * columns * bits) / 8);
    const scales = new Float32Array((count * columns) / block);
    for (const [at, matrix] of matrices.entries()) {
      const made = quantizeRows(matrix, block, bits);
      codes.set(made.codes, at * made.codes.length);
      scales.set(made.scales, at * made.scales.length);
    }
    const blocks = columns / block;
    const codeShape = split ? [...rows, blocks, (block * bits) / 8] : [...rows, (columns * bits) / 8];
    return [this.#graph.constant(codes, codeShape, 'u8'), this.#graph.constant(scales, [...rows, blocks], 'f32')];
  }

  async #norm(x, name) {
    const weight = await this.#read(name);
    return this.#graph.add('SimplifiedLayerNormalization', [x, this.#graph.constant(weight, [weight.length], 'f32')], {
      attributes: { axis: -1, epsilon: this.#sizes.epsilon, stash_type: 1 },
    });
  }

  async #headNorm(x, name, heads) {
    const { queryKeyNorm, headDim } = this.#sizes;
    if (queryKeyNorm === 'vector') return this.#norm(x, name);
    const split = this.#graph.add('Reshape', [x, this.#integers(0, 0, heads, headDim)]);
    return this.#graph.add('Reshape', [await this.#norm(split, name), this.#integers(0, 0, heads * headDim)]);
  }

  /** What attention asks for: the place of each sequence's last token, and the length of the longest with its past. */
  #lengths() {
    const graph = this.#graph;
    const toI32 = (value) => graph.add('Cast', [value], { attributes: { to: dtypes.i32 } });
    const one = this.#integers(1);
    const sum = graph.add('ReduceSum', ['attention_mask', one], { attributes: { keepdims: 0 } });
    const second = graph.constant(BigInt64Array.of(1n), [], 'i64');
    return [
      toI32(graph.add('Sub', [sum, one])),
      toI32(graph.add('Gather', [graph.add('Shape', ['attention_mask']), second])),
    ];
  }

  #ropeTables() {
    const { context, headDim, theta } = this.#sizes;
    const half = headDim / 2;
    const table = (of) => {
      const values = Float32Array.from({ length: context * half }, (_, at) =>
        of(Math.floor(at / half) * theta ** (-(at % half) / half)),
      );
      return this.#graph.constant(values, [context, half], 'f32');
    };
    return [table(Math.cos), table(Math.sin)];
  }

  #integers(...values) {
    return this.#graph.constant(BigInt64Array.from(values, BigInt), [values.length], 'i64');
  }
}

/** Rows of both in turn, as the fused activation wants them. */
function interleave(gate, up, columns) {
  const both = new Float32Array(gate.length * 2);
  for (let at = 0; at < gate.length; at += columns) {
    both.set(gate.subarray(at, at + columns), 2 * at);
    both.set(up.subarray(at, at + columns), 2 * at + columns);
  }
  return both;
}
