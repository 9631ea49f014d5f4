/** What a bank of weights refuses before anything is packed. */
import assert from 'node:assert/strict';
import { type Device, type ExpertKind, expertBank, openDevice, Weight, type WeightSpec } from '../../lib/index.ts';
import { moeError, normal } from './support.ts';

const format = { format: 'f32' } as const;

describe('weights', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('cpu', { threads: 1 });
  });
  after(() => device.dispose());

  it('refuse numbers of slots and widths that are none, however huge', async () => {
    for (const slots of [0, -1, 1.5, Number.NaN, 2 ** 53]) {
      const made = Weight.from(device, { in: 8, out: 8, slots, format }, normal(64));
      await assert.rejects(made, moeError('INVALID_ARGUMENT', 'slots'));
    }
    for (const slots of [2, 65, 2 ** 31, 2 ** 52]) {
      const made = Weight.from(device, { in: 8, out: 8, slots, format }, normal(64));
      await assert.rejects(made, moeError('SHAPE_MISMATCH', 'values'));
    }
    for (const [key, value] of [
      ['in', 0],
      ['out', 2 ** 53],
      ['inOf', [0]],
      ['outOf', 8],
    ] as const) {
      const made = Weight.from(device, { in: 8, out: 8, format, [key]: value } as WeightSpec, normal(64));
      await assert.rejects(made, moeError('INVALID_ARGUMENT', key));
    }
    assert.equal(device.memory().held, 0);
  });

  it('ask for the bias that the spec announces', async () => {
    const spec = { in: 8, out: 8, format, bias: true };
    await assert.rejects(Weight.from(device, spec, normal(64)), moeError('DTYPE_MISMATCH', 'bias'));
    (await Weight.from(device, spec, normal(64), normal(8))).dispose();
  });

  it('keep the spec that they were loaded by', async () => {
    const spec: WeightSpec = { in: 8, out: 8, format: { format: 'int8' } };
    const loading = Weight.from(device, spec, normal(64));
    Object.assign(spec, { in: 4, format });
    const weight = await loading;
    assert.deepEqual([weight.spec.in, weight.spec.format], [8, { format: 'int8' }]);
    weight.dispose();
  });

  it('make a bank only where they fit each other and the kind', async () => {
    const make = (out: number, over: Partial<WeightSpec> = {}) => {
      const spec = { in: 8, out, slots: 2, format, ...over };
      return Weight.from(device, spec, normal((over.slots ?? 2) * spec.in * out));
    };
    const [up, gated, down, single] = [
      await make(6),
      await make(12, { gated: true }),
      await make(8, { in: 6 }),
      await make(6, { slots: 1 }),
    ];
    const bank = (kind: ExpertKind, of: Weight, groupOf?: Int32Array) => expertBank({ kind, up: of, down, groupOf });
    assert.deepEqual([bank('relu', up).experts, bank('swiglu', gated, Int32Array.of(1, 0, 1)).experts], [2, 3]);
    assert.throws(() => bank('swiglu', up), moeError('SHAPE_MISMATCH', 'down'));
    assert.throws(() => bank('relu', gated), moeError('SHAPE_MISMATCH', 'down'));
    assert.throws(() => bank('relu', single), moeError('SHAPE_MISMATCH', 'down'));
    assert.throws(() => bank('relu', up, Int32Array.of(0, 2)), moeError('INVALID_ARGUMENT', 'groupOf'));
    assert.throws(() => bank('relu', up, Int32Array.of(-1, 0)), moeError('INVALID_ARGUMENT', 'groupOf'));
    assert.throws(() => bank('softmax' as never, up), moeError('INVALID_ARGUMENT', 'kind'));
    for (const weight of [up, gated, down, single]) weight.dispose();
  });
});
