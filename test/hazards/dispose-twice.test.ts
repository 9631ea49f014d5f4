/** dispose is the same as dispose twice, by name, by symbol, and after the device is gone. */
import assert from 'node:assert/strict';
import { expertBank, Graph, openDevice, Tensor, Weight } from '../../lib/index.ts';
import { normal } from '../facade/support.ts';

describe('dispose twice', () => {
  it('does nothing the second time', async () => {
    const device = await openDevice('cpu');
    const before = device.memory().held;
    const format = { format: 'f32' } as const;
    const tensor = Tensor.empty(device, 'f32', [64]);
    const weight = await Weight.from(device, { in: 8, out: 8, format }, normal(64));
    const up = await Weight.from(device, { in: 8, out: 8, slots: 2, format }, normal(128));
    const down = await Weight.from(device, { in: 8, out: 8, slots: 2, format }, normal(128));
    const bank = expertBank({ kind: 'relu', up, down });
    const g = new Graph(device);
    const program = g.output('y', g.norm(g.input('x', 'f32', ['tokens', 8]), undefined)).compile({ tokens: 1 });
    for (const owner of [tensor, weight, bank, program]) {
      owner.dispose();
      owner.dispose();
      owner[Symbol.dispose]();
    }
    const other = Tensor.empty(device, 'f32', [16]);
    assert.equal(device.memory().held - before, 64, 'nothing was given back twice');
    other.dispose();
    device.dispose();
    device.dispose();
    device[Symbol.dispose]();
    await device[Symbol.asyncDispose]();
  });

  it('is allowed in any order', async () => {
    const device = await openDevice('cpu');
    const tensor = Tensor.empty(device, 'f32', [64]);
    const weight = await Weight.from(device, { in: 8, out: 8, format: { format: 'f32' } }, normal(64));
    const g = new Graph(device);
    const program = g.output('y', g.linear(g.input('x', 'f32', ['tokens', 8]), weight)).compile({ tokens: 1 });
    device.dispose();
    weight.dispose();
    program.dispose();
    tensor.dispose();
    assert.ok(tensor.disposed && weight.disposed && program.disposed);
  });
});
