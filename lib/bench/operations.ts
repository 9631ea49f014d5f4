/** Every operation but linear and attention, on data that comes from memory. */
import type { Device } from '../device/device.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import { type Case, caseGroups } from './cases.ts';
import { randomTensor } from './data.ts';
import type { Group } from './rows.ts';
import type { BenchShape } from './shapes.ts';

/** The router, the plan of the rows, and the way back to tokens. */
export function routingGroups(device: Device, shape: BenchShape, tokens: readonly number[], warm: boolean): Group[] {
  const { hidden, experts, topK, renormalize } = shape;
  const routing = (g: Graph) => g.route(g.input('logits', 'f32', ['tokens', experts]), { experts, topK, renormalize });
  return caseGroups(
    device,
    'routing',
    shape.name,
    tokens.flatMap((count): Case[] => [
      {
        name: 'route',
        tokens: count,
        build(g) {
          const { gates, offsets } = routing(g);
          g.output('gates', gates).output('offsets', offsets);
        },
        inputs: async () => ({ logits: await randomTensor(device, [count, experts]) }),
      },
      {
        name: 'route, combine',
        tokens: count,
        build(g) {
          const rows = g.input('rows', 'f32', [{ factor: topK, symbol: 'tokens' }, hidden]);
          g.output('y', g.combine(rows, routing(g)));
        },
        inputs: async () => ({
          logits: await randomTensor(device, [count, experts]),
          rows: await randomTensor(device, [count * topK, hidden]),
        }),
      },
    ]),
    warm,
  );
}

/** What a decoder does beside its matrices. */
export async function operationGroups(
  device: Device,
  shape: BenchShape,
  tokens: readonly number[],
  warm: boolean,
): Promise<Group[]> {
  const { hidden, heads } = shape;
  const [headDim, vocabulary, gramWidth, history] = [shape.headDim || 128, 32768, 768, 3];
  const integers = (count: number, below: number): Promise<Tensor> =>
    Tensor.from(
      device,
      Int32Array.from({ length: count }, () => Math.floor(Math.random() * below)),
      { dtype: 'i32', shape: [count] },
    );
  const ascending = (count: number): Promise<Tensor> =>
    Tensor.from(
      device,
      Int32Array.from({ length: count }, (_, at) => at),
      { dtype: 'i32', shape: [count] },
    );
  const table = await Tensor.from(device, new Uint16Array(vocabulary * hidden).fill(0x3f80), {
    dtype: 'bf16',
    shape: [vocabulary, hidden],
  });
  const [weight, frequencies, taps] = [
    await randomTensor(device, [hidden]),
    await randomTensor(device, [headDim / 2]),
    await randomTensor(device, [hidden, history + 1]),
  ];
  const wide = (g: Graph, name: string, width = hidden): Value => g.input(name, 'f32', ['tokens', width]);
  const indices = (g: Graph, name: string): Value => g.input(name, 'i32', ['tokens']);
  const cases = tokens.flatMap((count): Case[] => [
    {
      name: 'embed',
      tokens: count,
      build: (g) => void g.output('y', g.embed(indices(g, 'ids'), table)),
      inputs: async () => ({ ids: await integers(count, vocabulary) }),
    },
    {
      name: 'norm with residual',
      tokens: count,
      build(g) {
        const { y, sum } = g.addNorm(wide(g, 'x'), wide(g, 'residual'), weight);
        g.output('y', y).output('sum', sum);
      },
      inputs: async () => ({
        x: await randomTensor(device, [count, hidden]),
        residual: await randomTensor(device, [count, hidden]),
      }),
    },
    {
      name: 'rotate',
      tokens: count,
      build(g) {
        g.output('y', g.rotate(wide(g, 'x', heads * headDim), indices(g, 'positions'), frequencies, { heads }));
      },
      inputs: async () => ({
        x: await randomTensor(device, [count, heads * headDim]),
        positions: await integers(count, 4096),
      }),
    },
    {
      name: 'map multiply',
      tokens: count,
      build: (g) => void g.output('y', g.map('multiply', wide(g, 'a'), wide(g, 'b'))),
      inputs: async () => ({
        a: await randomTensor(device, [count, hidden]),
        b: await randomTensor(device, [count, hidden]),
      }),
    },
    {
      name: 'map silu',
      tokens: count,
      build: (g) => void g.output('y', g.map('silu', wide(g, 'a'))),
      inputs: async () => ({ a: await randomTensor(device, [count, hidden]) }),
    },
    {
      name: 'convolve',
      tokens: count,
      build(g) {
        const state = g.state('state', 'f32', [1, history * hidden]);
        g.output('y', g.convolve(wide(g, 'x'), taps, indices(g, 'sequence'), indices(g, 'positions'), state));
      },
      inputs: async () => ({
        x: await randomTensor(device, [count, hidden]),
        sequence: await Tensor.zeros(device, 'i32', [count]),
        positions: await ascending(count),
        state: await Tensor.zeros(device, 'f32', [1, history * hidden]),
      }),
    },
    {
      name: 'take',
      tokens: count,
      build: (g) => void g.output('y', g.take(wide(g, 'x'), indices(g, 'index'))),
      inputs: async () => ({ x: await randomTensor(device, [count, hidden]), index: await integers(count, count) }),
    },
    {
      name: `score of ${vocabulary}`,
      tokens: Math.min(count, 64),
      build(g) {
        const { logProbability } = g.score(wide(g, 'logits', vocabulary), { ids: indices(g, 'ids') });
        g.output('y', logProbability as Value);
      },
      inputs: async () => ({
        logits: await randomTensor(device, [Math.min(count, 64), vocabulary]),
        ids: await integers(Math.min(count, 64), vocabulary),
      }),
    },
    {
      name: `accumulate gram of ${gramWidth}`,
      tokens: count,
      build: (g) => g.accumulate('gram', wide(g, 'a', gramWidth), g.state('state', 'f64', [gramWidth, gramWidth])),
      inputs: async () => ({
        a: await randomTensor(device, [count, gramWidth]),
        state: await Tensor.zeros(device, 'f64', [gramWidth, gramWidth]),
      }),
      // The other half of the products is the same.
      cost: {
        bytes: 4 * count * gramWidth + 16 * gramWidth ** 2,
        operations: { f32: count * gramWidth * (gramWidth + 1) },
      },
    },
  ]);
  return caseGroups(device, 'operations', shape.name, cases, warm);
}
