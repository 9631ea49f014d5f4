/** Memory that is not there, at every place that asks for some: OUT_OF_MEMORY, nothing leaks, everything else works on. */
import assert from 'node:assert/strict';
import { Graph, openDevice, Tensor, Weight } from '../../lib/index.ts';
import { linearProgram, moeError, normal } from '../facade/support.ts';

const limit = 2_000_000;

for (const name of ['cpu', 'reference']) {
  describe(`${name}: out of memory`, () => {
    it('tensor, weight, arena and output give the same error and leave nothing', async () => {
      const device = await openDevice(name, { memoryLimit: limit });
      const { program, dispose } = await linearProgram(device, 64, 1024);
      const x = normal(64);
      await program.run({ x }, { into: { y: new Float32Array(64) } });
      const before = device.memory().held;

      assert.throws(() => Tensor.empty(device, 'u8', [limit]), moeError('OUT_OF_MEMORY'));
      await assert.rejects(Tensor.zeros(device, 'u8', [limit]), moeError('OUT_OF_MEMORY'));
      const spec = { in: 1024, out: 1024, format: { format: 'f32' } } as const;
      await assert.rejects(Weight.from(device, spec, new Float32Array(1 << 20)), moeError('OUT_OF_MEMORY'));
      await assert.rejects(async () => {
        const g = new Graph(device);
        const wide = g.norm(g.norm(g.input('x', 'f32', ['tokens', 64]), undefined), undefined);
        await g.output('y', wide).compile({ tokens: 100000 }).run({ x });
      }, moeError('OUT_OF_MEMORY'));
      assert.ok(device.memory().held <= before + 4096, 'nothing is left of what failed');

      const ballast = Tensor.empty(device, 'u8', [limit - device.memory().held - 100]);
      await assert.rejects(program.run({ x }), moeError('OUT_OF_MEMORY'));
      assert.throws(() => program.runSync({ x }), moeError('OUT_OF_MEMORY'));
      await program.run({ x }, { into: { y: new Float32Array(64) } });
      ballast.dispose();
      (await program.run({ x })).y?.dispose();
      dispose();
      device.dispose();
    });

    it('sizes beyond every machine are refused, not tried', async () => {
      const device = await openDevice(name);
      for (const shape of [[2 ** 52], [2 ** 31, 2 ** 20]]) {
        assert.throws(() => Tensor.empty(device, 'f32', shape), moeError('OUT_OF_MEMORY'));
      }
      const g = new Graph(device);
      const y = g.norm(g.input('x', 'f32', ['tokens', 2 ** 20]), undefined);
      const compile = async (): Promise<unknown> => g.output('y', y).compile({ tokens: 2 ** 50 });
      await assert.rejects(compile, (error) => moeError((error as { code: 'OUT_OF_MEMORY' }).code)(error));
      device.dispose();
    });
  });
}
