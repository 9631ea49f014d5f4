/**
 * What opening a model takes: seconds, and anonymous memory at its peak (RssAnon of this process, sampled every millisecond on a
 * thread of its own, less what was there before) beside the packed size, which it may exceed by a tenth and 256 MB. Linux only.
 * Without a folder, random bf16 weights of an OLMoE of 4 layers (3.8 GB in the temporary folder) are written first.
 *
 *   node --import=tsx bench/loading.ts [folder] [--weights int4:128:symmetric] [--json]
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { writeRandomModel } from '../lib/bench/random-model.ts';
import { benchShape } from '../lib/bench/shapes.ts';
import { Model, openDevice } from '../lib/index.ts';
import { parseWeightFormat } from '../lib/weight/format.ts';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { weights: { type: 'string' }, json: { type: 'boolean', default: false } },
});

/** Bytes [before, largest so far], and whether to go on. */
const sampler = `
const { workerData, parentPort } = require('node:worker_threads');
const { readFileSync } = require('node:fs');
const anonymous = () => Number(/RssAnon:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'latin1'))[1]) * 1024;
const state = new BigInt64Array(workerData);
state[0] = BigInt(anonymous());
parentPort.postMessage('ready');
for (let peak = 0n; Atomics.load(state, 2) === 0n; Atomics.wait(state, 2, 0n, 1)) {
  const now = BigInt(anonymous());
  if (now > peak) Atomics.store(state, 1, (peak = now));
}`;

const made = positionals.length === 0 ? await mkdtemp(join(tmpdir(), 'node-moe-loading-')) : undefined;
const folder = positionals[0] ?? (made as string);
try {
  if (made) await writeRandomModel(made, benchShape('olmoe'), 4);
  const weights = options.weights === undefined ? undefined : parseWeightFormat(options.weights);
  const device = await openDevice('cpu');
  const state = new BigInt64Array(new SharedArrayBuffer(24));
  const worker = new Worker(sampler, { eval: true, workerData: state.buffer });
  await new Promise((resolve) => worker.once('message', resolve));
  const started = performance.now();
  const model = await Model.open(folder, { device, weights });
  const seconds = (performance.now() - started) / 1000;
  Atomics.store(state, 2, 1n);
  Atomics.notify(state, 2);
  await new Promise((resolve) => worker.once('exit', resolve));
  const packed = model.memory().weights;
  const [before = 0n, largest = 0n] = state;
  const peak = Number(largest - before);
  await model.dispose();
  device.dispose();
  const result = { weights: options.weights ?? 'stored', stored: model.bytes, packed, peak, seconds };
  const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;
  console.log(
    options.json
      ? JSON.stringify(result)
      : `${result.weights}: ${megabytes(model.bytes)} on disk, ${megabytes(packed)} packed, ${megabytes(peak)} at the peak ` +
          `(${(peak / packed).toFixed(2)} × packed), ${seconds.toFixed(2)} s`,
  );
} finally {
  if (made) await rm(made, { recursive: true });
}
