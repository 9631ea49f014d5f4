/** Garbage collection: forgotten objects give their memory back, objects in use keep it, V8 is told of it. */
import assert from 'node:assert/strict';
import { setImmediate as immediate, setTimeout as pause } from 'node:timers/promises';
import { getHeapStatistics } from 'node:v8';
import { type Device, Graph, openDevice, Tensor, Weight } from '../../lib/index.ts';
import { normal } from '../facade/support.ts';

const collect = (globalThis as { gc?: () => void }).gc;

/** Collects until `done` or ten times. */
async function collectUntil(done: () => boolean): Promise<void> {
  assert.ok(collect, 'run with --expose-gc');
  for (let round = 0; round < 10 && !done(); round++) {
    collect();
    await pause(5);
  }
}

for (const name of ['cpu', 'reference']) {
  describe(`${name}: garbage collection`, () => {
    let device: Device;
    before(async () => {
      device = await openDevice(name);
    });
    after(() => device.dispose());

    it('frees forgotten tensors', async () => {
      const before = device.memory().held;
      (() => {
        for (let i = 0; i < 50; i++) Tensor.empty(device, 'f32', [10000]);
      })();
      assert.ok(device.memory().held > before);
      await collectUntil(() => device.memory().held === before);
      assert.equal(device.memory().held, before);
    });

    it('frees forgotten weights, graphs and programs', async () => {
      const before = device.memory().held;
      const use = async (): Promise<void> => {
        const weight = await Weight.from(device, { in: 64, out: 64, format: { format: 'f32' } }, normal(4096));
        const g = new Graph(device);
        const program = g.output('y', g.linear(g.input('x', 'f32', ['tokens', 64]), weight)).compile({ tokens: 4 });
        await program.run({ x: normal(64) }, { into: { y: new Float32Array(64) } });
      };
      for (let i = 0; i < 20; i++) await use();
      const bound = before + 20 * 4096 * 4;
      assert.ok(device.memory().held >= before + 4096 * 4);
      // A queue keeps one arena; all the weights must go.
      await collectUntil(() => device.memory().held < before + 4096 * 4);
      assert.ok(
        device.memory().held < Math.min(bound, before + 4096 * 4),
        `${device.memory().held - before} bytes are left`,
      );
    });

    it('keeps what a program needs, though nobody else holds it', async () => {
      const make = async () => {
        const weight = await Weight.from(device, { in: 64, out: 64, format: { format: 'f32' } }, normal(4096));
        const scale = await Tensor.from(device, normal(64), { dtype: 'f32', shape: [64] });
        const g = new Graph(device);
        return g
          .output('y', g.norm(g.linear(g.input('x', 'f32', ['tokens', 64]), weight), scale))
          .compile({ tokens: 1 });
      };
      const program = await make();
      const x = normal(64);
      const first = program.runSync({ x }, { into: { y: new Float32Array(64) } }).y;
      for (let i = 0; i < 5; i++) {
        await collectUntil(() => false);
        Tensor.empty(device, 'f32', [4096]).dispose();
      }
      assert.deepEqual(program.runSync({ x }, { into: { y: new Float32Array(64) } }).y, first);
      program.dispose();
    });

    it('keeps the arrays and tensors of a run that is in flight', async () => {
      const g = new Graph(device);
      let value = g.input('x', 'f32', ['tokens', 256]);
      for (let i = 0; i < 20; i++) value = g.norm(value, undefined);
      const program = g.output('y', value).compile({ tokens: 64 });
      const runs = Array.from({ length: 8 }, async (_, i) => {
        const x = await Tensor.from(device, normal(64 * 256, i), { dtype: 'f32', shape: [64, 256] });
        return program.run({ x }, { into: { y: new Float32Array(64 * 256) } });
      });
      await collectUntil(() => false);
      for (const [i, { y }] of (await Promise.all(runs)).entries()) {
        const again = program.runSync({ x: normal(64 * 256, i) }, { into: { y: new Float32Array(64 * 256) } }).y;
        assert.deepEqual(y, again);
      }
      program.dispose();
    });

    it('tells V8 of the memory outside, so that it collects in time by itself', async () => {
      // V8 collects at the latest when half of the heap's limit is new outside. A marking that has begun before keeps what
      // is born after it, so with a large heap two halves are held at most (4064 MiB of 4144 with 140 MiB and more of
      // objects beside; 0.7 to 2.5 GiB without); untold, 7.5 GiB and more of these 16.
      const size = 16 << 20;
      const limit = getHeapStatistics().heap_size_limit + size;
      const before = device.memory().held;
      let most = 0;
      for (let made = 0; made < 4 * limit; made += size) {
        Tensor.empty(device, 'u8', [size]); // never touched: no page of it is real
        most = Math.max(most, device.memory().held - before);
        await immediate();
      }
      const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(0);
      assert.ok(most <= limit, `${mebibytes(most)} MiB were held at once, of ${mebibytes(4 * limit)} forgotten`);
    });
  });
}
