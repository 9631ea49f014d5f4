/** Every method of an object that is gone gives DISPOSED: method × what was disposed. */
import assert from 'node:assert/strict';
import { type Device, Graph, openDevice, type Program, Tensor, type Value, Weight } from '../../lib/index.ts';
import { moeError, normal } from '../facade/support.ts';

interface Parts {
  device: Device;
  tensor: Tensor<'f32'>;
  weight: Weight;
  program: Program;
  graph: Graph;
  x: Value;
}

type Owner = 'device' | 'tensor' | 'weight' | 'program';

const methods: Record<string, { dies: readonly Owner[]; call: (parts: Parts) => unknown }> = {
  'device.memory': { dies: ['device'], call: ({ device }) => device.memory() },
  'device.limits': { dies: ['device'], call: ({ device }) => device.limits() },
  'Tensor.empty': { dies: ['device'], call: ({ device }) => Tensor.empty(device, 'f32', [1]) },
  'Tensor.zeros': { dies: ['device'], call: ({ device }) => Tensor.zeros(device, 'f32', [1]) },
  'Tensor.from': {
    dies: ['device'],
    call: ({ device }) => Tensor.from(device, normal(1), { dtype: 'f32', shape: [1] }),
  },
  'Weight.from': {
    dies: ['device'],
    call: ({ device }) => Weight.from(device, { in: 1, out: 1, format: { format: 'f32' } }, normal(1)),
  },
  'new Graph': { dies: ['device'], call: ({ device }) => new Graph(device) },
  'tensor.write': { dies: ['device', 'tensor'], call: ({ tensor }) => tensor.write(normal(1)) },
  'tensor.read': { dies: ['device', 'tensor'], call: ({ tensor }) => tensor.read() },
  'tensor.readSync': { dies: ['device', 'tensor'], call: ({ tensor }) => tensor.readSync() },
  'graph.input': { dies: ['device'], call: ({ graph }) => graph.input('z', 'f32', [1]) },
  'graph.state': { dies: ['device'], call: ({ graph }) => graph.state('z', 'f32', [1]) },
  'graph.constant': { dies: ['device', 'tensor'], call: ({ graph, tensor }) => graph.constant(tensor) },
  'graph.norm': { dies: ['device', 'tensor'], call: ({ graph, x, tensor }) => graph.norm(x, tensor) },
  'graph.linear': { dies: ['device', 'weight'], call: ({ graph, x, weight }) => graph.linear(x, weight) },
  'graph.output': { dies: ['device'], call: ({ graph, x }) => graph.output('y', x) },
  'graph.compile': { dies: ['device'], call: ({ graph }) => graph.compile({ tokens: 1 }) },
  'program.run': { dies: ['device', 'program'], call: ({ program }) => program.run({ x: normal(8) }) },
  'program.runSync': { dies: ['device', 'program'], call: ({ program }) => program.runSync({ x: normal(8) }) },
  'program.run of a tensor': {
    dies: ['device', 'program', 'tensor'],
    call: ({ program, tensor }) => program.run({ x: tensor }),
  },
  'program.run into a tensor': {
    dies: ['device', 'program', 'tensor'],
    call: ({ program, tensor }) => program.run({ x: normal(8) }, { into: { y: tensor } }),
  },
};

async function make(): Promise<Parts> {
  const device = await openDevice('cpu');
  const tensor = await Tensor.from(device, normal(8), { dtype: 'f32', shape: [1, 8] });
  const weight = await Weight.from(device, { in: 8, out: 8, format: { format: 'f32' } }, normal(64));
  const built = new Graph(device);
  const program = built
    .output('y', built.linear(built.input('x', 'f32', ['tokens', 8]), weight))
    .compile({ tokens: 1 });
  const graph = new Graph(device);
  return { device, tensor, weight, program, graph, x: graph.input('x', 'f32', ['tokens', 8]) };
}

describe('use after dispose', () => {
  for (const [method, { dies, call }] of Object.entries(methods)) {
    for (const owner of dies) {
      it(`${method} after ${owner}.dispose()`, async () => {
        const parts = await make();
        parts[owner].dispose();
        await assert.rejects(async () => call(parts), moeError('DISPOSED'));
        parts.device.dispose();
      });
    }
  }

  it('leaves programs whole whose weight or tensor was disposed after compile', async () => {
    const parts = await make();
    const wanted = parts.program.runSync({ x: normal(8) }, { into: { y: new Float32Array(8) } }).y;
    parts.weight.dispose();
    assert.deepEqual(parts.program.runSync({ x: normal(8) }, { into: { y: new Float32Array(8) } }).y, wanted);
    parts.device.dispose();
  });
});
