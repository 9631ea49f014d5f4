/** A queue's programs share one arena: a program whose arena is refused takes nothing from those that ran before it. */
import assert from 'node:assert/strict';
import { type Device, Graph, openDevice, type Program } from '../../lib/index.ts';
import { moeError, normal } from '../facade/support.ts';

function normTwice(device: Device, tokens: number): Program {
  const g = new Graph(device);
  const y = g.norm(g.norm(g.input('x', 'f32', ['tokens', 64]), undefined), undefined);
  return g.output('y', y).compile({ tokens });
}

for (const name of ['cpu', 'reference']) {
  it(`${name}: programs run on after another one's arena was refused`, async () => {
    const device = await openDevice(name, { memoryLimit: 4_000_000 });
    const small = normTwice(device, 4);
    const large = normTwice(device, 100_000);
    const x = normal(4 * 64);
    const into = { y: new Float32Array(4 * 64) };
    await small.run({ x }, { into });
    const expected = into.y.slice();

    assert.throws(() => large.runSync({ x }), moeError('OUT_OF_MEMORY'));
    small.runSync({ x }, { into });
    assert.deepEqual(into.y, expected);
    await assert.rejects(large.run({ x }), moeError('OUT_OF_MEMORY'));
    await small.run({ x }, { into });
    assert.deepEqual(into.y, expected);
    device.dispose();
  });
}
