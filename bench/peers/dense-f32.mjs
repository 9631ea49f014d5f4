// f32 dense linear layers: node-moe's cpu device against ONNX Runtime, interleaved in one run, medians, checked first.
// npm run build && (cd bench/peers && npm install --ignore-scripts) && node bench/peers/dense-f32.mjs [--json]
import ort from 'onnxruntime-node';
import { Graph, openDevice, Weight } from '../../dist/index.js';
import { onnxMatMul } from './onnx-matmul.mjs';

const threads = 2;
const rounds = 15;
const shapes = [
  { inputs: 1024, outputs: 1024 },
  { inputs: 2048, outputs: 1024 },
  { inputs: 4096, outputs: 4096 },
];
const device = await openDevice('cpu', { threads });
const rows = [];

for (const { inputs, outputs } of shapes) {
  const matrix = Float32Array.from({ length: inputs * outputs }, () => Math.random() - 0.5);
  const transposed = new Float32Array(matrix.length);
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++) transposed[i * outputs + o] = matrix[o * inputs + i];
  const weight = await Weight.from(device, { in: inputs, out: outputs, format: { format: 'f32' } }, matrix);
  const session = await ort.InferenceSession.create(onnxMatMul(transposed, inputs, outputs), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
  });
  for (const tokens of [1, 8, 64, 512]) {
    const graph = new Graph(device);
    const program = graph
      .output('y', graph.linear(graph.input('x', 'f32', ['tokens', inputs]), weight))
      .compile({ tokens });
    const x = Float32Array.from({ length: tokens * inputs }, () => Math.random() - 0.5);
    const y = new Float32Array(tokens * outputs);
    const feeds = { x: new ort.Tensor('float32', x, [tokens, inputs]) };
    const ours = () => program.run({ x }, { into: { y } });
    const theirs = () => session.run(feeds);

    await ours();
    const expected = (await theirs()).y.data;
    const error = y.reduce((worst, value, i) => Math.max(worst, Math.abs(value - expected[i])), 0);
    if (!(error < 1e-5 * inputs)) throw new Error(`results differ by ${error}`);

    const times = { ours: [], theirs: [] };
    for (let round = 0; round < rounds; round++) {
      times.ours.push(await time(ours));
      times.theirs.push(await time(theirs));
    }
    const [ms, peer] = [median(times.ours), median(times.theirs)];
    rows.push({
      inputs,
      outputs,
      tokens,
      ms,
      gflops: (2 * tokens * inputs * outputs) / ms / 1e6,
      peer,
      ratio: ms / peer,
    });
    program.dispose();
  }
  weight.dispose();
}
const machine = device.description;
device.dispose();
if (process.argv.includes('--json'))
  console.log(JSON.stringify({ machine, peer: 'onnxruntime-node 1.30.0', rows }, null, 2));
else {
  console.table(
    rows.map(({ inputs, outputs, tokens, ms, gflops, peer, ratio }) => ({
      shape: `${inputs} → ${outputs}`,
      tokens,
      'node-moe ms': +ms.toFixed(4),
      'GFLOP/s': +gflops.toFixed(1),
      'ONNX Runtime ms': +peer.toFixed(4),
      'ours / theirs': +ratio.toFixed(2),
    })),
  );
}

async function time(run) {
  const started = performance.now();
  await run();
  return performance.now() - started;
}

function median(values) {
  return values.sort((a, b) => a - b)[values.length >> 1];
}
