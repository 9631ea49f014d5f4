/** The event loop turns while a large graph computes and a weight loads. */
import assert from 'node:assert/strict';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as pause } from 'node:timers/promises';
import { openDevice, Weight } from '../../lib/index.ts';
import { longProgram, normal } from '../facade/support.ts';

/** The 99th percentile of the delay in ms while `work` goes on; timers run all the while. */
async function delayDuring(work: () => Promise<unknown>): Promise<{ p99: number; turns: number; took: number }> {
  await pause(50);
  const histogram = monitorEventLoopDelay({ resolution: 1 });
  histogram.enable();
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  const begin = performance.now();
  await work();
  const took = performance.now() - begin;
  clearInterval(timer);
  histogram.disable();
  return { p99: histogram.percentile(99) / 1e6, turns, took };
}

describe('event loop delay', () => {
  it('stays below 20 ms at p99 while a large graph computes', async () => {
    const device = await openDevice('cpu');
    const { program, x } = await longProgram(device, { size: 1024, depth: 60, tokens: 256 });
    await program.run({ x }, { into: { y: new Float32Array(x.length) } });
    const { p99, turns, took } = await delayDuring(async () => {
      for (let i = 0; i < 3; i++) await program.run({ x }, { into: { y: new Float32Array(x.length) } });
    });
    assert.ok(took > 100, `it was a large graph: ${took.toFixed(0)} ms`);
    assert.ok(turns > 10, `${turns} turns in ${took.toFixed(0)} ms`);
    assert.ok(p99 < 20, `p99 ${p99.toFixed(1)} ms over ${took.toFixed(0)} ms`);
    device.dispose();
  });

  it('stays below 20 ms at p99 while a weight loads', async () => {
    const device = await openDevice('cpu');
    const values = normal(4096 * 2048);
    const { p99 } = await delayDuring(async () => {
      const weight = await Weight.from(device, { in: 2048, out: 4096, format: { format: 'int4' } }, values);
      weight.dispose();
    });
    assert.ok(p99 < 20, `p99 ${p99.toFixed(1)} ms`);
    device.dispose();
  });
});
