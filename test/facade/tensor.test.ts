/** Tensors, scopes and weights on their own. */
import assert from 'node:assert/strict';
import { type Device, type Dtype, type NativePiece, openDevice, scope, Tensor, Weight } from '../../lib/index.ts';
import { hostArray } from '../../lib/tensor/dtype.ts';
import { moeError, normal } from './support.ts';

describe('tensor', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('cpu');
  });
  after(() => device.dispose());

  for (const dtype of ['f32', 'f16', 'bf16', 'f64', 'i32', 'i8', 'u8'] as const satisfies readonly Dtype[]) {
    it(`${dtype}: comes back as it went`, async () => {
      const data = hostArray(dtype, 60);
      for (let i = 0; i < 60; i++) data[i] = (i * 7) % 120;
      const tensor = await Tensor.from(device, data, { dtype, shape: [5, 12] });
      assert.equal(tensor.bytes, data.byteLength);
      assert.deepEqual(await tensor.read(), data);
      assert.deepEqual(tensor.readSync(hostArray(dtype, 60)), data);
      tensor.dispose();
    });
  }

  it('writes a part', async () => {
    const tensor = await Tensor.zeros(device, 'i32', [2, 3]);
    await tensor.write(Int32Array.of(7, 8), { offset: 3 });
    await tensor.write(new Int32Array(0), { offset: 6 });
    assert.deepEqual([...(await tensor.read())], [0, 0, 0, 7, 8, 0]);
    for (const offset of [5, Number.MAX_SAFE_INTEGER]) {
      await assert.rejects(tensor.write(Int32Array.of(1, 2), { offset }), moeError('SHAPE_MISMATCH', 'data'));
    }
    for (const offset of [-1, 0.5, Number.NaN]) {
      await assert.rejects(tensor.write(Int32Array.of(1, 2), { offset }), moeError('INVALID_ARGUMENT', 'offset'));
    }
    await assert.rejects(tensor.read(new Int32Array(5)), moeError('SHAPE_MISMATCH', 'into'));
    await assert.rejects(tensor.read(new Float32Array(6) as never), moeError('DTYPE_MISMATCH', 'into'));
    tensor.dispose();
  });

  it('holds nothing where a dimension is 0', async () => {
    const tensor = await Tensor.zeros(device, 'f32', [0, 64]);
    assert.deepEqual(await tensor.read(), new Float32Array(0));
    tensor.dispose();
    assert.ok(Object.is(Tensor.empty(device, 'f32', [-0, 64]).shape[0], 0), 'no -0');
  });

  it('refuses shapes and data that do not fit', async () => {
    const data = new Float32Array(4);
    for (const shape of [[5], [], [-4], [2, 2.5], [1, 1, 1, 1, 4], [2 ** 40, 2 ** 40]]) {
      await assert.rejects(Tensor.from(device, data, { dtype: 'f32', shape }), moeError('SHAPE_MISMATCH'));
    }
    await assert.rejects(
      Tensor.from(device, data as never, { dtype: 'i32', shape: [4] }),
      moeError('DTYPE_MISMATCH', 'data'),
    );
    assert.throws(() => Tensor.empty(device, 'f8' as never, [4]), moeError('DTYPE_MISMATCH', 'dtype'));
    assert.throws(() => Tensor.empty(device, 'f64', [2 ** 50]), moeError('OUT_OF_MEMORY'));
  });

  it('is freed at the end of its scope, unless it is returned', async () => {
    const before = device.memory().held;
    const made: Tensor[] = [];
    const make = (): Tensor => {
      const tensor = Tensor.empty(device, 'f32', [64]);
      made.push(tensor);
      return tensor;
    };
    const kept = scope(() => {
      make();
      return { list: [make()], map: new Map([['a', make()]]) };
    });
    assert.deepEqual(
      made.map((tensor) => tensor.disposed),
      [true, false, false],
    );
    assert.equal(device.memory().held - before, 2 * 256);
    kept.list[0]?.dispose();
    kept.map.get('a')?.dispose();
    assert.throws(() => scope(() => assert.fail(String(make().length))));
    assert.ok(made[3]?.disposed, 'also after an error');
    assert.equal(device.memory().held, before);
  });

  it('is freed at the end of an async scope; scopes nest and do not mix', async () => {
    const before = device.memory().held;
    const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 2));
    const outer = scope(async () => {
      const early = await Tensor.zeros(device, 'f32', [8]);
      const inner = await scope(async () => {
        await pause();
        Tensor.empty(device, 'f32', [8]);
        return Tensor.empty(device, 'f32', [8]);
      });
      assert.ok(!early.disposed && !inner.disposed);
      return { early, inner, free: [early] };
    });
    const beside = scope(async () => {
      Tensor.empty(device, 'f32', [8]);
      await pause();
      await pause();
      return Tensor.empty(device, 'f32', [8]);
    });
    const outside = Tensor.empty(device, 'f32', [8]);
    const { early, inner } = await outer;
    const other = await beside;
    assert.deepEqual(
      [early, inner, other, outside].map((tensor) => tensor.disposed),
      [false, false, false, false],
    );
    for (const tensor of [early, inner, other, outside]) tensor.dispose();
    assert.equal(device.memory().held, before);
    await assert.rejects(scope(async () => assert.fail(String(Tensor.empty(device, 'f32', [8]).length))));
    assert.equal(device.memory().held, before);
  });
});

describe('weight', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('cpu');
  });
  after(() => device.dispose());

  const spec = { in: 4, out: 2, format: { format: 'f32' } } as const;
  const piece: NativePiece = { part: 'base', slot: 0, row: 0, rows: 2, form: { store: 'f32' }, values: normal(8) };

  it('must be covered once by its pieces', async () => {
    await assert.rejects(Weight.load(device, spec, []), moeError('INVALID_ARGUMENT'));
    await assert.rejects(Weight.load(device, spec, [piece, piece]), moeError('INVALID_ARGUMENT'));
    await assert.rejects(
      Weight.load(device, spec, [{ ...piece, rows: 1, values: normal(4) }]),
      moeError('INVALID_ARGUMENT'),
    );
    const halves = [1, 0].map((row) => ({ ...piece, row, rows: 1, values: normal(4) }));
    const weight = await Weight.load(device, spec, halves);
    assert.ok(weight.bytes >= 32);
    weight.dispose();
  });

  it('refuses rows, slots and lengths that are not there', async () => {
    const before = device.memory().held;
    for (const change of [{ slot: 1 }, { row: 1 }, { rows: 3 }, { row: -1 }, { rows: 0.5 }, { values: normal(7) }]) {
      await assert.rejects(Weight.load(device, spec, [{ ...piece, ...change }]), (error) =>
        moeError((error as { code: 'INVALID_ARGUMENT' }).code)(error),
      );
    }
    await assert.rejects(Weight.from(device, spec, normal(7)), moeError('SHAPE_MISMATCH', 'values'));
    await assert.rejects(Weight.from(device, { ...spec, in: 0 }, normal(0)));
    await assert.rejects(
      Weight.from(device, { ...spec, format: { format: 'int5' as 'int4' } }, normal(8)),
      moeError('INVALID_ARGUMENT', 'format'),
    );
    assert.equal(device.memory().held, before);
  });

  it('stops loading at an abort', async () => {
    const big = { in: 2048, out: 1024, slots: 8, format: { format: 'int4' } } as const;
    const values = new Float32Array(2048 * 1024 * 8);
    const reason = new Error('enough');
    await assert.rejects(
      Weight.load(device, spec, [piece], { signal: AbortSignal.abort(reason) }),
      (error) => error === reason,
    );
    const pieces = Array.from({ length: 8 }, (_, slot): NativePiece => {
      return {
        part: 'base',
        slot,
        row: 0,
        rows: 1024,
        form: { store: 'f32' },
        values: values.subarray(slot * 2048 * 1024, (slot + 1) * 2048 * 1024),
      };
    });
    const controller = new AbortController();
    const pending = Weight.load(device, big, pieces, { signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(pending, (error) => error === reason);
  });
});
