/** dispose while runs are in flight: they end as if nothing had happened, then the memory goes. */
import assert from 'node:assert/strict';
import { openDevice, Tensor, Weight } from '../../lib/index.ts';
import { longProgram, normal } from '../facade/support.ts';

const small = { size: 128, depth: 60, tokens: 64 } as const;

for (const name of ['cpu', 'reference']) {
  describe(`${name}: dispose in flight`, () => {
    for (const victim of ['program', 'input', 'output', 'weight', 'device'] as const) {
      it(victim, async () => {
        const device = await openDevice(name);
        const { program, x, dispose } = await longProgram(device, name === 'cpu' ? small : { ...small, depth: 4 });
        const shape = [small.tokens, small.size];
        const wanted = program.runSync({ x }, { into: { y: new Float32Array(x.length) } }).y;
        const input = await Tensor.from(device, x, { dtype: 'f32', shape });
        const target = Tensor.empty(device, 'f32', shape);
        const runs = Array.from({ length: 3 }, () =>
          program.run({ x: input }, { into: { y: new Float32Array(x.length) } }),
        );
        const bound = program.run({ x: input }, { into: { y: target } });
        const owner = { program, input, output: target, weight: { dispose }, device }[victim];
        owner.dispose();
        for (const { y } of await Promise.all(runs)) assert.deepEqual(y, wanted);
        assert.equal((await bound).y, target);
        if (victim === 'device') return;
        if (victim !== 'output') assert.deepEqual(await target.read(), wanted);
        dispose();
        input.dispose();
        target.dispose();
        device.dispose();
      });
    }

    it('a tensor that is being written and read', async () => {
      const device = await openDevice(name);
      const data = normal(1 << 18);
      const tensor = Tensor.empty(device, 'f32', [data.length]);
      const written = tensor.write(data);
      const read = tensor.read();
      tensor.dispose();
      await written;
      assert.deepEqual(await read, data);
      assert.equal(device.memory().held, 0);
      device.dispose();
    });

    it('the device of a weight that is loading', async () => {
      const device = await openDevice(name);
      const pending = Weight.from(device, { in: 512, out: 512, format: { format: 'int4' } }, normal(512 * 512));
      device.dispose();
      const [outcome] = await Promise.allSettled([pending]);
      if (outcome?.status === 'rejected') assert.equal((outcome.reason as { code: string }).code, 'DISPOSED');
      else outcome?.value.dispose();
    });
  });
}
