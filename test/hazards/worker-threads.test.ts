/** Several workers compute at once beside the main thread, end, and are terminated in the middle of a run. */
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { openDevice } from '../../lib/index.ts';
import { longProgram } from '../facade/support.ts';

/** tsx does not reach into workers by itself: its hooks are registered there first. */
interface Started {
  readonly worker: Worker;
  readonly ready: Promise<unknown>;
  readonly sum: Promise<unknown>;
  readonly code: Promise<unknown>;
}

/** Listeners stand from the start: a message that comes before its listener is lost. */
function start(runs: number, name = 'cpu'): Started {
  const hooks = JSON.stringify(createRequire(import.meta.url).resolve('tsx/cjs/api'));
  const path = JSON.stringify(fileURLToPath(new URL('./computing.worker.ts', import.meta.url)));
  const code = `require(${hooks}).register(); require(${path});`;
  const worker = new Worker(code, { eval: true, workerData: { runs, name } });
  const ended = new Promise<unknown>((resolve, reject) => {
    worker.once('error', reject);
    worker.once('exit', resolve);
  });
  const messages: unknown[] = [];
  const nth = (count: number): Promise<unknown> =>
    new Promise((resolve, reject) => {
      worker.on('message', () => messages.length >= count && resolve(messages[count - 1]));
      ended.then(() => reject(new Error(`ended before message ${count}`)), reject);
    });
  worker.on('message', (message) => messages.push(message));
  const [ready, sum] = [nth(1), nth(2)];
  sum.catch(() => undefined); // where it is terminated
  return { worker, ready, sum, code: ended };
}

describe('worker threads', function () {
  this.timeout(30000);

  it('compute at once and agree with the main thread', async () => {
    const workers = Array.from({ length: 4 }, () => start(20));
    assert.deepEqual(await Promise.all(workers.map(({ ready }) => ready)), ['ready', 'ready', 'ready', 'ready']);
    const device = await openDevice('cpu', { threads: 2 });
    const { program, x } = await longProgram(device, { size: 96, depth: 30, tokens: 32 });
    const { y } = await program.run({ x }, { into: { y: new Float32Array(x.length) } });
    const own = y.reduce((total, value) => total + value, 0);
    assert.deepEqual(await Promise.all(workers.map(({ sum }) => sum)), [own, own, own, own]);
    assert.deepEqual(await Promise.all(workers.map(({ code }) => code)), [0, 0, 0, 0]);
    device.dispose();
  });

  for (const name of ['cpu', 'reference']) {
    it(`${name}: are terminated in the middle of runs while others go on`, async () => {
      const device = await openDevice(name);
      const { program, x } = await longProgram(device, { size: 96, depth: 30, tokens: 32 });
      for (let round = 0; round < 3; round++) {
        const workers = [start(1e9, name), start(1e9, name)];
        await Promise.all(workers.map(({ ready }) => ready));
        const mine = program.run({ x }, { into: { y: new Float32Array(x.length) } });
        await pause(5 + 7 * round);
        await Promise.all(workers.map(({ worker }) => worker.terminate()));
        assert.equal((await mine).y.length, x.length);
      }
      device.dispose();
    });
  }
});
