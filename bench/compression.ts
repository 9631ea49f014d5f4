/**
 * What recipes cost: compresses a model with each, evaluates every result on held-out windows, prints a row each.
 *
 *   node --import=tsx bench/compression.ts MODEL WINDOWS.safetensors [name …]
 *
 * WINDOWS holds token ids: `calibration` [windows, tokens] and `heldout` [sources, windows, tokens]; each held-out window stands alone.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SafetensorsFile } from '../lib/checkpoint/safetensors-file.ts';
import { compress, Model, openDevice } from '../lib/index.ts';
import { type Row, rows } from './compression/rows.ts';

const [source, windows, ...names] = process.argv.slice(2);
if (!source || !windows) throw new Error('usage: bench/compression.ts MODEL WINDOWS.safetensors [name …]');

using file = await SafetensorsFile.open(windows);
const [sources = 0, count = 0, tokens = 0] = file.entry('heldout').shape;
const heldOut = Int32Array.from((await file.read('heldout')) as Int16Array);
const folder = await mkdtemp(join(tmpdir(), 'node-moe-compression-'));
const device = await openDevice('cpu');

/** Mean over the sources, nats a token. */
async function loss(path: string): Promise<number> {
  await using model = await Model.open(path, { device });
  let sum = 0;
  for (let at = 0; at < sources; at++) {
    const ids = heldOut.subarray(at * count * tokens, (at + 1) * count * tokens);
    sum += (await model.evaluate(ids, { window: tokens })).nll;
  }
  return sum / sources;
}

async function measure({ name, options }: Row, original: number, dense: number): Promise<void> {
  const out = join(folder, 'model');
  const result = await compress(source as string, {
    out,
    force: true,
    calibrate: [windows as string],
    device,
    ...options,
  });
  const bytes = result.layers.reduce((sum, layer) => sum + layer.bytes, 0);
  const rise = (await loss(out)) - original;
  const cells = [name, (bytes / dense).toFixed(3), (rise < 0 ? '' : '+') + rise.toFixed(4), result.seconds.toFixed(1)];
  process.stdout.write(`| ${cells.join(' | ')} |\n`);
}

try {
  const original = await loss(source);
  const { config } = await Model.open(source, { device });
  const dense = config.layers.reduce(
    (sum, { block }) =>
      block.kind === 'moe' ? sum + block.moe.router.experts * 3 * block.moe.width * block.moe.hidden * 2 : sum,
    0,
  );
  process.stdout.write(
    `original: ${original.toFixed(4)} nats a token\n\n| recipe | bytes | loss over original | s |\n|---|---|---|---|\n`,
  );
  for (const row of rows) {
    if (names.length > 0 && !names.some((name) => row.name.includes(name))) continue;
    await measure(row, original, dense);
  }
} finally {
  device.dispose();
  await rm(folder, { recursive: true, force: true });
}
