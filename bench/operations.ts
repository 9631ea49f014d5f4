/**
 * Every operation but linear (`node-moe bench dense`) on real shapes: time a node from the program's own profile, median of many
 * runs, and its share of the limits measured in the same run. Bytes and operations are the core's own count.
 *
 *   node --import=tsx bench/operations.ts [--json] [--device cpu] [--threads 2]
 */
import { parseArgs } from 'node:util';
import { Graph, openDevice, profileOf, Tensor, type Value } from '../lib/index.ts';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    device: { type: 'string', default: 'cpu' },
    threads: { type: 'string', default: '2' },
  },
});
const rounds = 31;
const [tokens, hidden, heads, kvHeads, headDim, experts, topK, vocabulary] = [4096, 2048, 16, 4, 128, 128, 8, 32768];
const device = await openDevice(options.device, options.device === 'cpu' ? { threads: Number(options.threads) } : {});

type Inputs = Record<string, Float32Array | Int32Array | Tensor>;
interface Case {
  readonly name: string;
  readonly tokens: number;
  /** Adds one operation; names its output `y` where it has one. */
  build(g: Graph): Promise<void> | void;
  inputs(count: number): Promise<Inputs> | Inputs;
}

const random = (count: number): Float32Array => Float32Array.from({ length: count }, () => Math.random() - 0.5);
const integers = (count: number, below: number): Int32Array =>
  Int32Array.from({ length: count }, () => Math.floor(Math.random() * below));
const constant = (shape: number[]): Promise<Tensor> =>
  Tensor.from(device, random(shape.reduce((a, b) => a * b, 1)), { dtype: 'f32', shape });
const wide = (g: Graph, name: string, width = hidden): Value => g.input(name, 'f32', ['tokens', width]);
const indices = (g: Graph, name: string): Value => g.input(name, 'i32', ['tokens']);

const table = await Tensor.from(device, new Uint16Array(vocabulary * hidden).fill(0x3f80), {
  dtype: 'bf16',
  shape: [vocabulary, hidden],
});
const [normWeight, frequencies, taps] = [
  await constant([hidden]),
  await constant([headDim / 2]),
  await constant([hidden, 4]),
];

/** Attention of `count` tokens that end a sequence of `keys`. */
function attention(name: string, count: number, keys: number): Case {
  const pages = Math.ceil(keys / 16);
  return {
    name,
    tokens: count,
    build(g) {
      const cache = (state: string): Value => g.state(state, 'f32', [pages, 16, kvHeads * headDim]);
      const places = { positions: indices(g, 'positions'), sequence: indices(g, 'sequence') };
      const lists = { lengths: g.input('lengths', 'i32', [1]), pages: g.input('pages', 'i32', [pages]) };
      const [q, k, v] = [
        wide(g, 'q', heads * headDim),
        wide(g, 'k', kvHeads * headDim),
        wide(g, 'v', kvHeads * headDim),
      ];
      const caches = { kCache: cache('keys'), vCache: cache('values') };
      g.output('y', g.attention({ q, k, v, ...places, ...lists, ...caches, heads, kvHeads }));
    },
    async inputs() {
      return {
        q: random(count * heads * headDim),
        k: random(count * kvHeads * headDim),
        v: random(count * kvHeads * headDim),
        positions: Int32Array.from({ length: count }, (_, at) => keys - count + at),
        sequence: new Int32Array(count),
        lengths: Int32Array.of(keys),
        pages: Int32Array.from({ length: pages }, (_, page) => page),
        keys: await constant([pages, 16, kvHeads * headDim]),
        values: await constant([pages, 16, kvHeads * headDim]),
      };
    },
  };
}

const gramWidth = 768;
const gram = await Tensor.zeros(device, 'f64', [gramWidth, gramWidth]);
const history = await Tensor.zeros(device, 'f32', [1, 3 * hidden]);
const cases: Case[] = [
  {
    name: 'embed',
    tokens,
    build: (g) => void g.output('y', g.embed(indices(g, 'ids'), table)),
    inputs: (count) => ({ ids: integers(count, vocabulary) }),
  },
  {
    name: 'norm with residual',
    tokens,
    build(g) {
      const { y, sum } = g.addNorm(wide(g, 'x'), wide(g, 'residual'), normWeight);
      g.output('y', y).output('sum', sum);
    },
    inputs: (count) => ({ x: random(count * hidden), residual: random(count * hidden) }),
  },
  {
    name: 'rotate',
    tokens,
    build: (g) => void g.output('y', g.rotate(wide(g, 'x'), indices(g, 'positions'), frequencies, { heads })),
    inputs: (count) => ({ x: random(count * hidden), positions: integers(count, 4096) }),
  },
  {
    name: 'map multiply',
    tokens,
    build: (g) => void g.output('y', g.map('multiply', wide(g, 'a'), wide(g, 'b'))),
    inputs: (count) => ({ a: random(count * hidden), b: random(count * hidden) }),
  },
  {
    name: 'map silu',
    tokens,
    build: (g) => void g.output('y', g.map('silu', wide(g, 'a'))),
    inputs: (count) => ({ a: random(count * hidden) }),
  },
  {
    name: 'route',
    tokens,
    build(g) {
      const { gates, offsets } = g.route(wide(g, 'x', experts), { experts, topK, renormalize: true });
      g.output('gates', gates).output('offsets', offsets);
    },
    inputs: (count) => ({ x: random(count * experts) }),
  },
  {
    name: 'route, combine',
    tokens,
    build(g) {
      const routing = g.route(wide(g, 'x', experts), { experts, topK, renormalize: true });
      const rows = g.input('rows', 'f32', [{ factor: topK, symbol: 'tokens' }, hidden]);
      g.output('y', g.combine(rows, routing));
    },
    inputs: (count) => ({ x: random(count * experts), rows: random(count * topK * hidden) }),
  },
  {
    name: 'convolve',
    tokens,
    build(g) {
      const state = g.state('state', 'f32', [1, 3 * hidden]);
      g.output('y', g.convolve(wide(g, 'x'), taps, indices(g, 'sequence'), indices(g, 'positions'), state));
    },
    inputs: (count) => ({
      x: random(count * hidden),
      sequence: new Int32Array(count),
      positions: Int32Array.from({ length: count }, (_, at) => at),
      state: history,
    }),
  },
  {
    name: 'take',
    tokens,
    build: (g) => void g.output('y', g.take(wide(g, 'x'), indices(g, 'index'))),
    inputs: (count) => ({ x: random(count * hidden), index: integers(count, count) }),
  },
  {
    name: 'score',
    tokens: 64,
    build(g) {
      const { logProbability } = g.score(wide(g, 'logits', vocabulary), { ids: indices(g, 'ids') });
      g.output('y', logProbability as Value);
    },
    inputs: (count) => ({ logits: random(count * vocabulary), ids: integers(count, vocabulary) }),
  },
  {
    name: 'accumulate gram',
    tokens,
    build: (g) => g.accumulate('gram', wide(g, 'a', gramWidth), g.state('state', 'f64', [gramWidth, gramWidth])),
    inputs: (count) => ({ a: random(count * gramWidth), state: gram }),
  },
  attention('attention, prefill 512', 512, 512),
  attention('attention, decode at 2048', 1, 2048),
];

const limits = await device.limits();
const rows = [];
for (const one of cases) {
  const graph = new Graph(device);
  await one.build(graph);
  const program = graph.compile({ tokens: one.tokens });
  const inputs = await one.inputs(one.tokens);
  const into = program.runSync(inputs); // the same outputs each time: fresh memory would be timed too
  const times = new Map<string, number[]>();
  let last: NonNullable<ReturnType<typeof profileOf>> = [];
  for (let round = 0; round < rounds; round++) {
    last = profileOf(program.runSync(inputs, { into, profile: true })) ?? [];
    for (const node of last) times.set(node.operation, [...(times.get(node.operation) ?? []), node.microseconds]);
  }
  const node = last.at(-1);
  if (!node) throw new Error(`${one.name}: nothing ran`);
  const sorted = (times.get(node.operation) as number[]).sort((a, b) => a - b);
  const microseconds = sorted[rounds >> 1] as number;
  const byBytes = node.bytes / limits.readBytesPerSecond;
  const byOperations = node.operations / limits.f32OperationsPerSecond;
  const share = Math.max(byBytes, byOperations) / (microseconds * 1e-6);
  rows.push({
    operation: one.name,
    tokens: one.tokens,
    microseconds,
    gigabytesPerSecond: node.bytes / microseconds / 1e3,
    gigaoperationsPerSecond: node.operations / microseconds / 1e3,
    share,
    limit: byBytes > byOperations ? 'memory' : 'arithmetic',
  });
  program.dispose();
}
const machine = device.description;
device.dispose();

if (options.json) console.log(JSON.stringify({ machine, limits, rows }, null, 2));
else {
  console.log(
    `memory read ${(limits.readBytesPerSecond / 1e9).toFixed(1)} GB/s, f32 ${(limits.f32OperationsPerSecond / 1e9).toFixed(0)} GFLOP/s`,
  );
  console.table(
    rows.map(
      ({ operation, tokens: count, microseconds, gigabytesPerSecond, gigaoperationsPerSecond, share, limit }) => ({
        operation,
        tokens: count,
        µs: +microseconds.toFixed(1),
        'GB/s': +gigabytesPerSecond.toFixed(1),
        'GOP/s': +gigaoperationsPerSecond.toFixed(1),
        'share of limit': `${(100 * share).toFixed(0)} % of ${limit}`,
      }),
    ),
  );
}
