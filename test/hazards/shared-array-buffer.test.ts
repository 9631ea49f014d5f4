/** Views over a SharedArrayBuffer, which another thread may write at any time, are refused everywhere. */
import assert from 'node:assert/strict';
import { type Device, openDevice, type Program, Tensor, Weight } from '../../lib/index.ts';
import { linearProgram, moeError, normal } from '../facade/support.ts';

const shared = (): Float32Array => new Float32Array(new SharedArrayBuffer(256));

describe('SharedArrayBuffer', () => {
  let device: Device;
  let program: Program;
  before(async () => {
    device = await openDevice('cpu');
    ({ program } = await linearProgram(device));
  });
  after(() => device.dispose());

  it('is refused as input', async () => {
    await assert.rejects(program.run({ x: shared() }), moeError('INVALID_ARGUMENT', 'inputs.x'));
    assert.throws(() => program.runSync({ x: shared() }), moeError('INVALID_ARGUMENT', 'inputs.x'));
    await assert.rejects(
      program.run({ x: new Float32Array(new SharedArrayBuffer(0)) }),
      moeError('INVALID_ARGUMENT', 'inputs.x'),
    );
  });

  it('is refused as target', async () => {
    await assert.rejects(
      program.run({ x: normal(64) }, { into: { y: shared() } }),
      moeError('INVALID_ARGUMENT', 'into.y'),
    );
  });

  it('is refused by tensors', async () => {
    const tensor = Tensor.empty(device, 'f32', [64]);
    await assert.rejects(tensor.write(shared()), moeError('INVALID_ARGUMENT', 'data'));
    await assert.rejects(tensor.read(shared()), moeError('INVALID_ARGUMENT', 'into'));
    await assert.rejects(
      Tensor.from(device, shared(), { dtype: 'f32', shape: [64] }),
      moeError('INVALID_ARGUMENT', 'data'),
    );
    tensor.dispose();
  });

  it('is refused by weights', async () => {
    const spec = { in: 8, out: 8, format: { format: 'f32' } } as const;
    await assert.rejects(Weight.from(device, spec, shared()), moeError('INVALID_ARGUMENT'));
  });
});
