/** AbortSignal: a run rejects with the signal's reason, soon, and leaves nothing behind. */
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { type Device, openDevice, type Program } from '../../lib/index.ts';
import { longProgram } from '../facade/support.ts';

for (const [name, options] of [
  ['cpu', {}],
  ['reference', { size: 96, depth: 60, tokens: 64 }],
] as const) {
  describe(`${name}: abort`, () => {
    let device: Device;
    let program: Program;
    let x: Float32Array;
    let whole: number;
    before(async () => {
      device = await openDevice(name);
      ({ program, x } = await longProgram(device, options));
      const begin = performance.now();
      await program.run({ x }, { into: { y: new Float32Array(x.length) } });
      whole = performance.now() - begin;
    });
    after(() => device.dispose());

    it('rejects at once where the signal is aborted already, before it looks at anything', async () => {
      const reason = new Error('no more');
      await assert.rejects(
        program.run({ wrong: x }, { signal: AbortSignal.abort(reason) }),
        (error) => error === reason,
      );
    });

    it('stops in the middle with the reason, in a part of the time', async () => {
      const reason = { why: 'changed my mind' };
      const controller = new AbortController();
      const begin = performance.now();
      const pending = program.run({ x }, { signal: controller.signal });
      await pause(whole / 10);
      controller.abort(reason);
      await assert.rejects(pending, (error) => error === reason);
      const took = performance.now() - begin;
      assert.ok(took < whole * 0.75, `${took.toFixed(0)} ms of ${whole.toFixed(0)}`);
      assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
    });

    it('stops runs that still wait', async () => {
      const controller = new AbortController();
      const first = program.run({ x }, { into: { y: new Float32Array(x.length) } });
      const waiting = program.run({ x }, { signal: controller.signal });
      controller.abort();
      await assert.rejects(waiting, { name: 'AbortError' });
      await first;
    });

    it('takes its listener away after success and after failure', async () => {
      const { signal } = new AbortController();
      const y = new Float32Array(x.length);
      await program.run({ x }, { signal, into: { y } });
      await assert.rejects(program.run({}, { signal }));
      assert.equal(getEventListeners(signal, 'abort').length, 0);
    });

    it('leaves the program as good as before', async () => {
      const wanted = (await program.run({ x }, { into: { y: new Float32Array(x.length) } })).y;
      const before = device.memory().held;
      const controller = new AbortController();
      const pending = program.run({ x }, { signal: controller.signal });
      setTimeout(() => controller.abort(), whole / 20);
      await assert.rejects(pending);
      assert.equal(device.memory().held, before, 'the outputs that were made are gone');
      assert.deepEqual((await program.run({ x }, { into: { y: new Float32Array(x.length) } })).y, wanted);
    });
  });
}
