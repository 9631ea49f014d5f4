/**
 * What the facade itself costs: medians of runSync and run of one 64×64 f32 linear at one token (a few hundred nanoseconds of
 * arithmetic, so nearly all of it is the way there and back), and the growth of the resident set over 10⁵ runs. The result is
 * checked before anything is timed.
 *
 *   node --expose-gc --import=tsx bench/facade.ts [--json] [--device cpu]
 */
import { parseArgs } from 'node:util';
import { Graph, openDevice, Weight } from '../lib/index.ts';

const { values: options } = parseArgs({
  options: { json: { type: 'boolean', default: false }, device: { type: 'string', default: 'cpu' } },
});
const size = 64;
const runs = 100_000;
const targets = { runSync: 8, run: 60 } as const;

const matrix = Float32Array.from({ length: size * size }, (_, i) => ((i * 37) % 19) - 9);
const x = Float32Array.from({ length: size }, (_, i) => (i % 7) - 3);
const y = new Float32Array(size);
const device = await openDevice(options.device);
const weight = await Weight.from(device, { in: size, out: size, format: { format: 'f32' } }, matrix);
const g = new Graph(device);
const program = g.output('y', g.linear(g.input('x', 'f32', ['tokens', size]), weight)).compile({ tokens: 1 });
const inputs = { x };
const into = { into: { y } };

program.runSync(inputs, into);
for (let row = 0; row < size; row++) {
  const wanted = x.reduce((sum, value, i) => sum + value * (matrix[row * size + i] as number), 0);
  if (y[row] !== wanted) throw new Error(`row ${row}: ${y[row]} for ${wanted}`);
}

const collect = (globalThis as { gc?: () => void }).gc;
const residentSet = (): number => {
  collect?.();
  return process.memoryUsage().rss;
};
const quantile = (sorted: Float64Array, share: number): number =>
  sorted[Math.floor(share * (sorted.length - 1))] as number;

async function measure(count: number, once: () => unknown): Promise<{ median: number; p10: number; p99: number }> {
  const microseconds = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const begin = process.hrtime.bigint();
    const result = once();
    if (result instanceof Promise) await result;
    microseconds[i] = Number(process.hrtime.bigint() - begin) / 1000;
  }
  microseconds.sort();
  return { median: quantile(microseconds, 0.5), p10: quantile(microseconds, 0.1), p99: quantile(microseconds, 0.99) };
}

await measure(20_000, () => program.runSync(inputs, into));
await measure(5_000, () => program.run(inputs, into));
const runSync = await measure(50_000, () => program.runSync(inputs, into));
const run = await measure(20_000, () => program.run(inputs, into));
const before = residentSet();
for (let i = 0; i < runs; i++) await program.run(inputs, into);
const growth = residentSet() - before;
const held = device.memory().held;
program.dispose();
weight.dispose();
device.dispose();

const result = {
  device: options.device,
  node: process.version,
  unit: 'µs',
  runSync,
  run,
  targets,
  rss: { runs, growthBytes: growth },
  heldBytes: held,
};
if (options.json) console.log(JSON.stringify(result));
else {
  for (const name of ['runSync', 'run'] as const) {
    const { median, p10, p99 } = result[name];
    console.log(
      `${name.padEnd(8)} median ${median.toFixed(2)} µs, p10 ${p10.toFixed(2)}, p99 ${p99.toFixed(2)}; target ${targets[name]} µs`,
    );
  }
  console.log(`resident set after ${runs} runs: ${(growth / 1024).toFixed(0)} KiB more; device holds ${held} bytes`);
}
