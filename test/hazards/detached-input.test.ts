/** Typed arrays whose memory has gone, before a call or while it is in flight. */
import assert from 'node:assert/strict';
import { runInNewContext } from 'node:vm';
import { type Device, openDevice, type Program, Tensor, Weight } from '../../lib/index.ts';
import { linearProgram, longProgram, moeError, normal } from '../facade/support.ts';

function detach(array: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  structuredClone(array.buffer, { transfer: [array.buffer] });
  assert.equal(array.length, 0);
  return array;
}

describe('detached arrays', () => {
  let device: Device;
  let program: Program;
  before(async () => {
    device = await openDevice('cpu');
    ({ program } = await linearProgram(device));
  });
  after(() => device.dispose());

  it('are refused as inputs, also where no tokens would be legal', async () => {
    await assert.rejects(program.run({ x: detach(new Float32Array(64)) }), moeError('INVALID_ARGUMENT', 'inputs.x'));
    assert.throws(() => program.runSync({ x: detach(new Float32Array(64)) }), moeError('INVALID_ARGUMENT', 'inputs.x'));
    await program.run({ x: new Float32Array(0) });
  });

  it('are refused as targets', async () => {
    const x = normal(64);
    await assert.rejects(
      program.run({ x }, { into: { y: detach(new Float32Array(64)) } }),
      moeError('INVALID_ARGUMENT', 'into.y'),
    );
    const tensor = await Tensor.from(device, x, { dtype: 'f32', shape: [64] });
    await assert.rejects(tensor.read(detach(new Float32Array(64))), moeError('INVALID_ARGUMENT', 'into'));
    await assert.rejects(tensor.write(detach(new Float32Array(64))), moeError('INVALID_ARGUMENT', 'data'));
    await assert.rejects(
      Tensor.from(device, detach(new Float32Array(0)), { dtype: 'f32', shape: [0] }),
      moeError('INVALID_ARGUMENT', 'data'),
    );
    tensor.dispose();
  });

  it('are refused as weights', async () => {
    const spec = { in: 8, out: 8, format: { format: 'f32' } } as const;
    const pieces = [
      { part: 'base', slot: 0, row: 0, rows: 8, form: { store: 'f32' }, values: detach(new Float32Array(64)) },
    ] as const;
    await assert.rejects(Weight.load(device, spec, pieces), moeError('INVALID_ARGUMENT'));
  });

  it('may go while a run reads them: they were copied', async () => {
    const x = normal(64) as Float32Array<ArrayBuffer>;
    const wanted = program.runSync({ x }, { into: { y: new Float32Array(64) } }).y;
    const pending = program.run({ x }, { into: { y: new Float32Array(64) } });
    detach(x);
    assert.deepEqual((await pending).y, wanted);
  });

  it('reject a run whose target went meanwhile, and the next runs work', async () => {
    const { program: long, x, dispose } = await longProgram(device, { size: 128, depth: 40, tokens: 64 });
    const y = new Float32Array(x.length);
    const pending = long.run({ x }, { into: { y } });
    detach(y);
    await assert.rejects(pending, moeError('INVALID_ARGUMENT'));
    assert.equal((await long.run({ x }, { into: { y: new Float32Array(x.length) } })).y.length, x.length);
    dispose();
  });

  it('views outside a buffer that was shrunk are refused, and views that follow its length are taken', async () => {
    const Resizable = ArrayBuffer as unknown as new (
      bytes: number,
      options: { maxByteLength: number },
    ) => ArrayBuffer & { resize(bytes: number): void };
    const buffer = new Resizable(512, { maxByteLength: 512 });
    const [fixed, following] = [new Float32Array(buffer, 256, 64), new Float32Array(buffer)];
    buffer.resize(256);
    assert.equal(fixed.length, 0);
    await assert.rejects(program.run({ x: fixed }), moeError('INVALID_ARGUMENT', 'inputs.x'));
    await assert.rejects(
      Tensor.from(device, fixed, { dtype: 'f32', shape: [0] }),
      moeError('INVALID_ARGUMENT', 'data'),
    );
    assert.equal(((await program.run({ x: following }, { into: { y: following } })).y as Float32Array).length, 64);
  });

  it('arrays that lie about their length or buffer are seen through', async () => {
    class Liar extends Float32Array {
      override get length(): number {
        return 64 * 8;
      }
      override get buffer(): ArrayBuffer {
        return new ArrayBuffer(64 * 8 * 4);
      }
    }
    const x = new Liar(64);
    await assert.rejects(program.run({ x }), moeError('SHAPE_MISMATCH'));
    assert.throws(() => program.runSync({ x }), moeError('SHAPE_MISMATCH'));
    await assert.rejects(program.run({ x: normal(64) }, { into: { y: x } }), moeError('SHAPE_MISMATCH'));
  });

  it('arrays of another realm are taken, as a test runner with a sandbox makes them', async () => {
    const x: Float32Array = runInNewContext('new Float32Array(64).fill(1)');
    assert.ok(!(x instanceof Float32Array));
    const wanted = program.runSync({ x: new Float32Array(64).fill(1) }, { into: { y: new Float32Array(64) } }).y;
    const y: Float32Array = runInNewContext('new Float32Array(64)');
    await program.run({ x }, { into: { y } });
    assert.deepEqual([...y], [...wanted]);
    const tensor = await Tensor.from(device, x, { dtype: 'f32', shape: [64] });
    assert.deepEqual([...(await tensor.read(y))], [...x]);
    tensor.dispose();
  });

  it('a target that was resized away is refused too', async () => {
    const Resizable = ArrayBuffer as unknown as new (
      bytes: number,
      options: { maxByteLength: number },
    ) => ArrayBuffer & { resize(bytes: number): void };
    const buffer = new Resizable(256, { maxByteLength: 256 });
    const { program: long, x, dispose } = await longProgram(device, { size: 64, depth: 20, tokens: 1 });
    const pending = long.run({ x }, { into: { y: new Float32Array(buffer, 0, 64) } });
    buffer.resize(16);
    await assert.rejects(pending, moeError('INVALID_ARGUMENT'));
    dispose();
  });
});
