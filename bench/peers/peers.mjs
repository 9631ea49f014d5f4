// The rows of `node-moe bench dense` and `bench experts` beside llama.cpp and ONNX Runtime on the same work, and whole models beside
// node-llama-cpp and transformers.js, interleaved in one run.
//
//   npm run bench:peers -- --json FILE [--work dense,experts] [--shape olmoe,…] [--tokens 1,8,64,512]
//       [--weights int4:128:symmetric,int8] [--threads 2] [--seconds 0.8]
//   npm run bench:peers -- --json FILE --work model [--model FOLDER or shape] [--files FOLDER] [--prepare]
//
// Writes { machine, isa, limits, emptyCallMs, rows: [{ work, shape, tokens, weights, ms, share, othersBusy, peers: [{ name, format, ms,
// ratio }] }] }, where a ratio is the peer's time over ours, and `othersBusy` the share of the cores that other processes took meanwhile. A turn of a subject begins when all threads have come to rest and is calls one after the
// other, as a model makes them: some to wake threads and clocks, then those that count; calls so long that waking makes no difference
// count at once. `--seconds`: of each subject of a row. A peer whose results are wrong is left out of the
// row and named on stderr. `--files` keeps what models are written as for the peers, `--prepare` writes it
// and ends.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { coldBytes } from '../../lib/bench/data.ts';
import { denseGroups } from '../../lib/bench/dense.ts';
import { chooseExperts, expertGroups } from '../../lib/bench/experts.ts';
import { LimitMeter } from '../../lib/bench/limits.ts';
import { judge, median, requirePossible } from '../../lib/bench/rows.ts';
import { benchShape } from '../../lib/bench/shapes.ts';
import { openDevice, parseWeightFormat } from '../../lib/index.ts';
import * as ggml from './ggml.mjs';
import * as onnx from './onnx.mjs';
import { rest, watchOthers } from './rest.mjs';
import { WrongResults } from './weights.mjs';

const { values: options } = parseArgs({
  options: {
    json: { type: 'string' },
    work: { type: 'string', default: 'dense,experts' },
    shape: { type: 'string' },
    tokens: { type: 'string', default: '1,8,64,512' },
    weights: { type: 'string', default: 'int4:128:symmetric,int8' },
    threads: { type: 'string', default: '2' },
    seconds: { type: 'string', default: '0.8' },
    model: { type: 'string', default: 'examples/models/tiny-qwen3-moe' },
    files: { type: 'string' },
    prepare: { type: 'boolean', default: false },
  },
});
const threads = Number(options.threads);
const tokens = options.tokens.split(',').map(Number);
const weights = options.weights.split(',').map((text) => ({ text, format: parseWeightFormat(text) }));
const shapes = {
  dense: (options.shape ?? 'mixtral-8x7b').split(','),
  experts: (options.shape ?? 'switch-base-8,qwen3-30b-a3b,olmoe,mixtral-8x7b').split(','),
};
const [fewestRounds, mostRounds] = [3, 15];
const secondsEach = Number(options.seconds);
const [wakeMs, turnMs, longMs] = [50, 20, 100];

const device = await openDevice('cpu', { threads });
const meter = new LimitMeter(() => device.limits());
const timed = [];

const works = options.work.split(',');
// node-llama-cpp loads the same libraries: its own threads must not find our log function in them.
if (works.includes('model') && works.length > 1) throw new Error('--work model stands alone');
const llama = works.includes('model') ? undefined : new ggml.Ggml(threads);
for (const work of works) {
  if (work === 'model') {
    timed.push(...(await models()));
    continue;
  }
  for (const name of shapes[work]) {
    for (const one of weights) await (work === 'dense' ? dense : experts)(benchShape(name), one);
  }
}
const emptyCall = await onnx.emptyCall();
const emptyTimes = [];
for (let round = 0; round < 101; round++) emptyTimes.push(await time(() => emptyCall()));
await meter.measure();

const { limits } = meter;
const rows = timed.map(({ peers, ...own }) => ({
  ...judge(own, limits, false),
  peers: peers.map((peer) => ({ ...peer, ratio: peer.ms / own.ms })),
}));
const machine = { node: process.version, ...device.description };
device.dispose();
const document = { machine, isa: machine.isa, limits, emptyCallMs: median(emptyTimes), rows };
if (options.json) await writeFile(options.json, `${JSON.stringify(document, null, 2)}\n`);
console.table(
  rows.flatMap(({ work, shape, tokens: count, weights: ours, ms, share, peers }) =>
    peers.map((peer) => ({
      ...{ work, shape, tokens: count, weights: ours, ms: +ms.toPrecision(4), share: `${(100 * share).toFixed(0)} %` },
      ...{ peer: `${peer.name} ${peer.format}`, 'peer ms': +peer.ms.toPrecision(4), ratio: +peer.ratio.toFixed(2) },
    })),
  ),
);
requirePossible(rows);

async function models() {
  const { modelRows, prepareModel } = await import('./models.mjs');
  const files = options.files ? resolve(options.files) : await mkdtemp(join(tmpdir(), 'node-moe-peers-'));
  try {
    const prepared = await prepareModel(options.model, weights, files);
    if (options.prepare) process.exit();
    await meter.measure();
    return await modelRows(device, prepared, tokens, threads);
  } finally {
    if (!options.files) await rm(files, { recursive: true });
  }
}

/** Copies of a peer's weights, so that they come from memory; more sessions of ONNX Runtime than so many take too long to make. */
function setsFor(bytes) {
  return Math.min(64, Math.ceil((2 * coldBytes) / bytes));
}

async function dense(shape, one) {
  const { hidden: columns, intermediate: outputs } = shape;
  const sizes = { in: columns, out: outputs };
  const [group] = denseGroups(device, shape.name, { ...sizes, tokens, weights: [one], warm: false });
  const subjects = await group.subjects();
  const sets = setsFor(subjects[0].cost.bytes);
  const { format } = one.format;
  const peers = [];
  for (const form of ggml.formats[format] ?? []) peers.push(...ggml.dense(llama, form, { columns, outputs, sets }));
  for (const form of onnx.denseFormats[format] ?? [])
    peers.push(await onnx.dense(form, { columns, outputs, sets, threads }));
  for (const subject of subjects) await compare(group, subject, peers, (peer) => peer.prepare(subject.tokens));
  await end(group, peers);
}

async function experts(shape, one) {
  const choices = new Map(tokens.map((count) => [count, chooseExperts(shape, count, false)]));
  const [group] = expertGroups(device, shape, { tokens, weights: [one], warm: false, choices });
  const subjects = await group.subjects();
  const { touched } = choices.get(subjects[0].tokens);
  const layerBytes = (subjects[0].cost.bytes / touched.size) * shape.experts;
  const sets = setsFor(layerBytes);
  const { format } = one.format;
  const peers = [];
  for (const form of ggml.formats[format] ?? []) peers.push(...ggml.experts(llama, form, shape, { sets }));
  if (format === 'int4') for (const block of [32, 128]) peers.push(await onnx.experts(shape, { sets, threads, block }));
  for (const subject of subjects) {
    const { logits, ids } = choices.get(subject.tokens);
    const prepare = (peer) => peer.prepare(subject.tokens, peer.name === 'llama.cpp' ? ids : logits);
    await compare(group, subject, peers, prepare);
  }
  await end(group, peers);
}

async function compare({ work, shape }, subject, peers, prepare) {
  console.error(`${work} ${shape}, ${subject.weights}, ${subject.tokens} tokens`);
  const calls = [subject.call];
  const right = [];
  for (const peer of peers) {
    try {
      calls.push(await prepare(peer));
      right.push(peer);
    } catch (error) {
      if (!(error instanceof WrongResults)) throw error;
      console.error(`left out: ${error.message}`);
    }
  }
  const others = watchOthers();
  const { result: times, readBytesPerSecond } = await meter.during(() => timeInTurn(calls), 1);
  const { tokens: count, weights: ours, cost } = subject;
  const [ms, ...theirs] = times.map(median);
  const figures = right.map(({ name, format }, at) => ({ name, format, ms: theirs[at] }));
  const row = { work, shape, tokens: count, weights: ours, ms, readBytesPerSecond, ...cost };
  timed.push({ ...row, othersBusy: others(), peers: figures });
}

/** Milliseconds of each call that counts. */
async function timeInTurn(calls) {
  const times = calls.map(() => []);
  const begin = performance.now();
  const fits = () => performance.now() - begin < 1000 * secondsEach * calls.length;
  const next = calls.map(() => 0);
  for (let round = 0; round < fewestRounds || (round < mostRounds && fits()); round++) {
    for (const [at, call] of calls.entries()) {
      const turn = (ms) => timeFor(ms, () => call(next[at]++));
      await rest();
      if (!(times[at].at(-1) > longMs)) await turn(wakeMs);
      times[at].push(...(await turn(turnMs)));
      llama.settle();
    }
  }
  return times;
}

async function end(group, peers) {
  group.dispose();
  for (const peer of peers) await peer.dispose();
}

/** Of calls that begin within `ms`. */
async function timeFor(ms, call) {
  const times = [];
  const begin = performance.now();
  do times.push(await time(call));
  while (performance.now() - begin < ms);
  return times;
}

async function time(call) {
  const started = performance.now();
  await call();
  return performance.now() - started;
}
