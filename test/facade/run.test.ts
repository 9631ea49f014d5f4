/** Program.run and runSync: bindings, sizes, outputs, states, profile. */
import assert from 'node:assert/strict';
import { type Device, Graph, limitShare, openDevice, profileOf, Tensor } from '../../lib/index.ts';
import { linearProgram, moeError, normal } from './support.ts';

for (const name of ['reference', 'cpu']) {
  describe(`${name}: a run`, () => {
    let device: Device;
    before(async () => {
      device = await openDevice(name);
    });
    after(() => device.dispose());

    it('takes its sizes from what is bound', async () => {
      const { program, dispose } = await linearProgram(device);
      for (const tokens of [1, 7, 64, 0]) {
        const { y } = await program.run({ x: normal(tokens * 64) });
        assert.deepEqual(y?.shape, [tokens, 64]);
        y?.dispose();
      }
      dispose();
    });

    it('gives the same from arrays and tensors, run and runSync', async () => {
      const { program, values, dispose } = await linearProgram(device);
      const x = normal(3 * 64);
      const tensor = await Tensor.from(device, x, { dtype: 'f32', shape: [3, 64] });
      const y = new Float32Array(3 * 64);
      const same = await program.run({ x }, { into: { y } });
      assert.equal(same.y, y);
      const held = (await program.run({ x: tensor })).y as Tensor;
      assert.deepEqual(await held.read(), y);
      assert.deepEqual(held.readSync(), y);
      assert.deepEqual(program.runSync({ x }, { into: { y: new Float32Array(192) } }).y, y);
      const target = Tensor.empty(device, 'f32', [3, 64]);
      assert.equal(program.runSync({ x: tensor }, { into: { y: target } }).y, target);
      assert.deepEqual(target.readSync(), y);
      const first = x.subarray(0, 64).reduce((sum, value, i) => sum + value * (values[i] as number), 0);
      assert.ok(Math.abs((y[0] as number) - first) < 1e-4, 'y[0] = x[0]·W[0]');
      dispose();
      for (const part of [tensor, held, target]) part.dispose();
    });

    it('copies host inputs before the call returns', async () => {
      const { program, dispose } = await linearProgram(device);
      const x = normal(64);
      const wanted = program.runSync({ x: x.slice() }, { into: { y: new Float32Array(64) } }).y;
      const pending = program.run({ x }, { into: { y: new Float32Array(64) } });
      x.fill(0);
      assert.deepEqual((await pending).y, wanted);
      dispose();
    });

    it('takes views into the middle of a buffer', async () => {
      const { program, dispose } = await linearProgram(device);
      const x = normal(200);
      const wanted = program.runSync({ x: x.slice(3, 67) }, { into: { y: new Float32Array(64) } }).y;
      const backing = new Float32Array(100).fill(9);
      program.runSync({ x: x.subarray(3, 67) }, { into: { y: backing.subarray(5, 69) } });
      assert.deepEqual(backing.slice(5, 69), wanted);
      assert.ok(backing.every((value, i) => value === 9 || (i >= 5 && i < 69)));
      dispose();
    });

    it('agrees with explicit sizes or refuses', async () => {
      const { program, dispose } = await linearProgram(device);
      const x = normal(128);
      const { y } = await program.run({ x }, { sizes: { tokens: 2 } });
      assert.deepEqual(y?.shape, [2, 64]);
      await assert.rejects(program.run({ x }, { sizes: { tokens: 1 } }), moeError('SHAPE_MISMATCH', 'inputs.x'));
      await assert.rejects(program.run({ x }, { sizes: { words: 1 } }), moeError('INVALID_ARGUMENT', 'sizes.words'));
      await assert.rejects(
        program.run({ x }, { sizes: { tokens: 0.5 } }),
        moeError('INVALID_ARGUMENT', 'sizes.tokens'),
      );
      dispose();
    });

    it('needs a size that no binding tells', async () => {
      const g = new Graph(device);
      const one = await Tensor.from(device, Float32Array.of(1), { dtype: 'f32', shape: [1] });
      const x = g.input('x', 'f32', ['tokens', 1]);
      const z = g.input('z', 'f32', [{ factor: 2, symbol: 'tokens' }, 1]);
      const program = g.output('y', g.norm(x, one)).output('z2', g.norm(z, one)).compile({ tokens: 4 });
      await assert.rejects(program.run({ x: normal(3), z: normal(5) }), moeError('SHAPE_MISMATCH', 'inputs.z'));
      const { z2 } = await program.run({ x: normal(3), z: normal(6) });
      assert.deepEqual(z2?.shape, [6, 1]);
      program.dispose();
    });

    it('refuses what does not fit, by name', async () => {
      const { program, dispose } = await linearProgram(device);
      const x = normal(64);
      const y = new Float32Array(64);
      const run = (inputs: object, options: object = {}): Promise<unknown> => program.run(inputs as never, options);
      await assert.rejects(run({}), moeError('INVALID_ARGUMENT', 'inputs.x'));
      await assert.rejects(run({ x: [1, 2] }), moeError('INVALID_ARGUMENT', 'inputs.x'));
      await assert.rejects(run({ x: new DataView(new ArrayBuffer(256)) }), moeError('DTYPE_MISMATCH', 'inputs.x'));
      await assert.rejects(run({ x: new Float64Array(64) }), moeError('DTYPE_MISMATCH', 'inputs.x'));
      await assert.rejects(run({ x: normal(63) }), moeError('SHAPE_MISMATCH', 'inputs.x'));
      await assert.rejects(run({ x, z: x }), moeError('INVALID_ARGUMENT', 'inputs.z'));
      await assert.rejects(run({ x }, { into: { z: y } }), moeError('INVALID_ARGUMENT', 'into.z'));
      await assert.rejects(run({ x }, { into: { y: new Float32Array(63) } }), moeError('SHAPE_MISMATCH', 'into.y'));
      await assert.rejects(run({ x }, { into: { y: new Int32Array(64) } }), moeError('DTYPE_MISMATCH', 'into.y'));
      await assert.rejects(run({ x: normal(65 * 64) }), moeError('INVALID_ARGUMENT', 'sizes.tokens'));
      const wide = Tensor.empty(device, 'f32', [2, 32]);
      await assert.rejects(run({ x: wide }), moeError('SHAPE_MISMATCH', 'inputs.x'));
      const half = Tensor.empty(device, 'f16', [1, 64]);
      await assert.rejects(run({ x: half }), moeError('DTYPE_MISMATCH', 'inputs.x'));
      const other = await openDevice(name);
      const foreign = Tensor.empty(other, 'f32', [1, 64]);
      await assert.rejects(run({ x: foreign }), moeError('INVALID_ARGUMENT', 'inputs.x'));
      other.dispose();
      assert.throws(() => program.runSync({ x: normal(63) }), moeError('SHAPE_MISMATCH', 'inputs.x'));
      const { y: still } = await program.run({ x }, { into: { y } });
      assert.equal(still, y, 'the program still runs');
      dispose();
      for (const part of [wide, half]) part.dispose();
    });

    it('reads and writes a state of the caller', async () => {
      const g = new Graph(device);
      g.accumulate('sum', g.input('x', 'f32', ['tokens', 4]), g.state('sums', 'f64', [4]));
      const program = g.compile({ tokens: 3 });
      const sums = await Tensor.zeros(device, 'f64', [4]);
      const other = await Tensor.zeros(device, 'f64', [4]);
      await program.run({ x: Float32Array.of(1, 2, 3, 4, 1, 1, 1, 1), sums });
      program.runSync({ x: Float32Array.of(1, 0, 0, 0), sums });
      await program.run({ x: new Float32Array(0), sums });
      await program.run({ x: Float32Array.of(9, 9, 9, 9), sums: other });
      assert.deepEqual([...(await sums.read())], [3, 3, 4, 5]);
      assert.deepEqual([...(await other.read())], [9, 9, 9, 9]);
      await assert.rejects(
        program.run({ x: new Float32Array(4), sums: new Float64Array(4) }),
        moeError('INVALID_ARGUMENT', 'inputs.sums'),
      );
      program.dispose();
    });

    it('keeps the order of runs that were started together', async () => {
      const g = new Graph(device);
      g.accumulate('sum', g.input('x', 'f32', ['tokens', 1]), g.state('sums', 'f64', [1]));
      const program = g.compile({ tokens: 1 });
      const sums = await Tensor.zeros(device, 'f64', [1]);
      await Promise.all(Array.from({ length: 200 }, (_, i) => program.run({ x: Float32Array.of(i), sums })));
      assert.deepEqual([...(await sums.read())], [19900]);
      program.dispose();
    });

    it('profiles each node', async () => {
      const { program, dispose } = await linearProgram(device);
      const outputs = await program.run({ x: normal(64 * 64) }, { profile: true });
      const [node] = profileOf(outputs) ?? [];
      assert.equal(node?.operation, 'linear');
      assert.ok(node && node.microseconds >= 0 && node.microseconds < 1e6);
      assert.ok(node && node.bytes >= 64 * 64 * 4, `${node?.bytes} bytes`);
      assert.equal(node?.operations, 2 * 64 * 64 * 64);
      assert.deepEqual(Object.keys(outputs), ['y']);
      const none = { int8OperationsPerSecond: 0, bf16OperationsPerSecond: 0 };
      const limits = { readBytesPerSecond: 1e10, f32OperationsPerSecond: 1e11, ...none };
      assert.ok(limitShare({ microseconds: 2, bytes: 1e4, operations: 1e5 }, limits) === 0.5);
      assert.ok(node && Math.abs(node.gigabytesPerSecond * node.microseconds * 1000 - node.bytes) < 1e-6 * node.bytes);
      assert.ok(Math.abs(node.teraoperationsPerSecond * node.microseconds * 1e6 - node.operations) < 1);
      assert.equal(node.share, null);
      assert.equal(profileOf(await program.run({ x: normal(64) })), undefined);
      assert.equal(profileOf(program.runSync({ x: normal(64) }, { profile: true }))?.length, 1);
      const measured = await device.limits();
      const [later] = profileOf(program.runSync({ x: normal(64) }, { profile: true })) ?? [];
      assert.equal(later?.share, measured.readBytesPerSecond > 0 && later ? limitShare(later, measured) : null);
      dispose();
    });

    it('takes half floats as bits, and as Float16Array where there is one', async () => {
      const g = new Graph(device);
      const program = g
        .output('y', g.map('scale', g.input('x', 'f16', ['tokens', 2]), undefined, { alpha: 2 }))
        .compile({ tokens: 1 });
      const { y } = program.runSync({ x: Uint16Array.of(0x3c00, 0xc000) }, { into: { y: new Uint16Array(2) } });
      assert.deepEqual([...y], [0x4000, 0xc400]);
      const Half = (globalThis as { Float16Array?: new (values: number[]) => Uint16Array }).Float16Array;
      if (Half) {
        program.runSync({ x: new Half([1, -2]) }, { into: { y } });
        assert.deepEqual([...y], [0x4000, 0xc400]);
      }
      program.dispose();
    });
  });
}
