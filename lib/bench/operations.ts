/** Every operation but linear, on data that comes from memory. Bytes and operations are the core's own count. */
import type { Device } from '../device/device.ts';
import { Graph } from '../graph/graph.ts';
import { profileOf } from '../graph/profile.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import { randomTensor, setsFor } from './data.ts';
import { disposeAll } from './dense.ts';
import type { Cost } from './limits.ts';
import type { Group } from './rows.ts';
import type { BenchShape } from './shapes.ts';

type Inputs = Record<string, Tensor>;

/** One graph with the inputs of one set. */
export interface Case {
  readonly name: string;
  readonly tokens: number;
  build(g: Graph): void;
  /** What a call reads and the next call finds elsewhere. */
  inputs(): Promise<Inputs>;
  /** Absent: the core's count of all nodes. */
  readonly cost?: Cost;
}

export function caseGroups(
  device: Device,
  work: string,
  shape: string,
  cases: readonly Case[],
  warm: boolean,
): Group[] {
  return cases.map((one) => {
    const held: { dispose(): void }[] = [];
    return {
      work,
      shape,
      async subjects() {
        const graph = new Graph(device);
        one.build(graph);
        const program = graph.compile({ tokens: one.tokens });
        held.push(program);
        const sets: { inputs: Inputs; into: Record<string, Tensor> }[] = [];
        const add = async (): Promise<void> => {
          const inputs = await one.inputs();
          // The first run makes the outputs of its set: later ones write there.
          const into = program.runSync(inputs) as Record<string, Tensor>;
          held.push(...Object.values(inputs), ...Object.values(into));
          sets.push({ inputs, into });
        };
        await add();
        const [{ inputs, into }] = sets as [(typeof sets)[0]];
        const bytes = [...Object.values(inputs), ...Object.values(into)].reduce((sum, tensor) => sum + tensor.bytes, 0);
        while (sets.length < setsFor(bytes, warm)) await add();
        const nodes = profileOf(program.runSync(inputs, { into, profile: true })) ?? [];
        const sum = (of: 'bytes' | 'operations'): number => nodes.reduce((total, node) => total + node[of], 0);
        const cost = one.cost ?? { bytes: sum('bytes'), operations: { f32: sum('operations') } };
        const call = (round: number): void => {
          const set = sets[round % sets.length] as (typeof sets)[0];
          program.runSync(set.inputs, { into: set.into });
        };
        return [{ tokens: one.tokens, weights: one.name, cost, call }];
      },
      dispose: () => disposeAll(held),
    };
  });
}

/** The router, the plan of the rows, and the way back to tokens. */
export async function routingGroups(
  device: Device,
  shape: BenchShape,
  tokens: readonly number[],
  warm: boolean,
): Promise<Group[]> {
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
    },
  ]);
  return caseGroups(device, 'operations', shape.name, cases, warm);
}

export interface AttentionBenchOptions {
  readonly tokens: readonly number[];
  /** In the cache after the call, at least the call's own tokens. */
  readonly keys: number;
  readonly caches: readonly ('f32' | 'bf16' | 'f16')[];
  readonly warm: boolean;
}

/** The tokens of a call end a sequence of `keys`; `weights` is the dtype of the cache. Bytes are those of the keys and values. */
export function attentionGroups(
  device: Device,
  { name, heads, kvHeads, headDim }: BenchShape,
  { tokens, keys, caches, warm }: AttentionBenchOptions,
): Group[] {
  const cases = caches.flatMap((dtype) =>
    tokens.map((count): Case => {
      const length = Math.max(keys, count);
      const pages = Math.ceil(length / 16);
      const width = kvHeads * headDim;
      const integers = (values: Int32Array): Promise<Tensor> =>
        Tensor.from(device, values, { dtype: 'i32', shape: [values.length] });
      const cache = (): Promise<Tensor> =>
        dtype === 'f32' ? randomTensor(device, [pages, 16, width]) : Tensor.zeros(device, dtype, [pages, 16, width]);
      // Token t of the call sees length − count + t + 1 keys.
      const pairs = count * (length - count) + (count * (count + 1)) / 2;
      return {
        name: `${dtype} cache, ${length} keys`,
        tokens: count,
        build(g) {
          const input = (of: string): Value => g.input(of, 'i32', ['tokens']);
          const wide = (of: string, columns: number): Value => g.input(of, 'f32', ['tokens', columns]);
          const state = (of: string): Value => g.state(of, dtype, [pages, 16, width]);
          const y = g.attention({
            q: wide('q', heads * headDim),
            k: wide('k', width),
            v: wide('v', width),
            positions: input('positions'),
            sequence: input('sequence'),
            lengths: g.input('lengths', 'i32', [1]),
            pages: g.input('pages', 'i32', [pages]),
            kCache: state('keys'),
            vCache: state('values'),
            heads,
            kvHeads,
          });
          g.output('y', y);
        },
        inputs: async () => ({
          q: await randomTensor(device, [count, heads * headDim]),
          k: await randomTensor(device, [count, width]),
          v: await randomTensor(device, [count, width]),
          positions: await integers(Int32Array.from({ length: count }, (_, at) => length - count + at)),
          sequence: await integers(new Int32Array(count)),
          lengths: await integers(Int32Array.of(length)),
          pages: await integers(Int32Array.from({ length: pages }, (_, page) => page)),
          keys: await cache(),
          values: await cache(),
        }),
        cost: {
          bytes: 2 * length * width * (dtype === 'f32' ? 4 : 2),
          operations: { [dtype === 'f32' ? 'f32' : 'bf16']: 4 * heads * headDim * pairs },
        },
      };
    }),
  );
  return caseGroups(device, 'attention', name, cases, warm);
}
