// ONNX Runtime's forms of a linear layer and of the experts of a layer. Its calls are asynchronous: what one costs without any work
// is measured beside them (`emptyCall`).
process.env.ORT_USE_MLAS_Q4_GEMM_MOE = '1';

import { contrib, oneOperation } from './onnx-model.mjs';
import { checkDense, quantizeRows, repeatRows, rowPool } from './weights.mjs';

const ort = await import('onnxruntime-node'); // after the switch is set

function session(bytes, threads) {
  return ort.InferenceSession.create(bytes, {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  });
}

const tensor = (data, columns) => new ort.Tensor('float32', data, [data.length / columns, columns]);
const random = (count) => Float32Array.from({ length: count }, () => Math.random() - 0.5);

/** [name, the op over the pool of rows] for a matrix [outputs, columns]. */
const denseForms = {
  f32: (pool, columns, outputs) => {
    const transposed = new Float32Array(columns * outputs);
    const all = repeatRows(pool, outputs);
    for (let row = 0; row < outputs; row++)
      for (let at = 0; at < columns; at++) transposed[at * outputs + row] = all[row * columns + at];
    return { type: 'MatMul', inputs: ['x', { data: transposed, shape: [columns, outputs], dtype: 'f32' }] };
  },
  'MatMulNBits 4 bits, block 32': (...matrix) => nBits(4, 32, ...matrix),
  'MatMulNBits 4 bits, block 128': (...matrix) => nBits(4, 128, ...matrix),
  'MatMulNBits 8 bits, block 128': (...matrix) => nBits(8, 128, ...matrix),
  'dynamic int8': (pool, columns, outputs) => {
    const { codes, scales } = quantizeRows(pool, columns, 8);
    const all = repeatRows(codes, outputs);
    const transposed = new Int8Array(columns * outputs);
    for (let row = 0; row < outputs; row++)
      for (let at = 0; at < columns; at++) transposed[at * outputs + row] = all[row * columns + at] - 128;
    const b = { data: transposed, shape: [columns, outputs], dtype: 'i8' };
    const scale = { data: repeatRows(scales, outputs), shape: [outputs], dtype: 'f32' };
    return { type: 'DynamicQuantizeMatMul', domain: contrib, inputs: ['x', b, scale] };
  },
};

/** Integer activations (accuracy level 4), as ours. */
function nBits(bits, block, pool, columns, outputs) {
  const { codes, scales } = quantizeRows(pool, block, bits);
  const blocks = columns / block;
  const b = { data: repeatRows(codes, outputs), shape: [outputs, blocks, (block * bits) / 8], dtype: 'u8' };
  const scale = { data: repeatRows(scales, outputs), shape: [outputs, blocks], dtype: 'f32' };
  const attributes = { K: columns, N: outputs, bits, block_size: block, accuracy_level: 4 };
  return { type: 'MatMulNBits', domain: contrib, attributes, inputs: ['x', b, scale] };
}

/** The forms that stand beside a format of ours. */
export const denseFormats = {
  f32: ['f32'],
  int8: ['dynamic int8', 'MatMulNBits 8 bits, block 128'],
  int4: ['MatMulNBits 4 bits, block 32', 'MatMulNBits 4 bits, block 128'],
};

/** `sets` copies of the layer, so that weights come from memory. */
export async function dense(form, { columns, outputs, sets, threads }) {
  const pool = rowPool(columns);
  const bytes = oneOperation(denseForms[form](pool, columns, outputs), { x: columns }, outputs);
  const sessions = [];
  for (let set = 0; set < sets; set++) sessions.push(await session(bytes, threads));
  return {
    name: 'ONNX Runtime',
    format: form,
    async prepare(tokens) {
      const x = random(tokens * columns);
      const feeds = { x: tensor(x, columns) };
      const { y } = await sessions[0].run(feeds);
      checkDense(form, x, y.data, pool, columns, outputs);
      return (round) => sessions[round % sets].run(feeds);
    },
    async dispose() {
      for (const one of sessions) await one.release();
    },
  };
}

/** QMoE with its 4-bit product, 4 bits in blocks of `block`; gate and up rows are interleaved. */
export async function experts(shape, { sets, threads, block }) {
  const { hidden, intermediate, experts: count, topK, kind, renormalize } = shape;
  const gated = kind === 'swiglu';
  const wide = gated ? 2 * intermediate : intermediate;
  const matrix = (columns, rows) => {
    const { codes, scales } = quantizeRows(rowPool(columns), block, 4);
    return [
      { data: repeatRows(codes, count * rows), shape: [count, rows, columns / 2], dtype: 'u8' },
      { data: repeatRows(scales, count * rows), shape: [count, rows, columns / block], dtype: 'f32' },
    ];
  };
  const attributes = {
    ...{ k: topK, activation_type: gated ? 'swiglu' : kind, normalize_routing_weights: renormalize ? 1 : 0 },
    ...{ expert_weight_bits: 4, block_size: block, ...(gated && { swiglu_fusion: 1 }) },
  };
  const inputs = ['x', 'router', ...matrix(hidden, wide), '', ...matrix(intermediate, hidden), ''];
  const op = { type: 'QMoE', domain: contrib, attributes, inputs };
  const bytes = oneOperation(op, { x: hidden, router: count }, hidden);
  const sessions = [];
  for (let set = 0; set < sets; set++) sessions.push(await session(bytes, threads));
  return {
    name: 'ONNX Runtime',
    format: `QMoE 4 bits, block ${block}`,
    async prepare(tokens, logits) {
      const x = tensor(random(tokens * hidden), hidden);
      const feeds = logits.map((data) => ({ x, router: tensor(data, count) }));
      const { y } = await sessions[0].run(feeds[0]);
      if (!y.data.every(Number.isFinite) || y.data.every((value) => value === 0)) throw new Error('QMoE: no results');
      return (round) => sessions[round % sets].run(feeds[Math.floor(round / sets) % feeds.length]);
    },
    async dispose() {
      for (const one of sessions) await one.release();
    },
  };
}

/** A call that does nothing. */
export async function emptyCall() {
  const one = await session(oneOperation({ type: 'Identity', inputs: ['x'] }, { x: 1 }, 1), 1);
  const feeds = { x: tensor(new Float32Array(1), 1) };
  return () => one.run(feeds);
}
