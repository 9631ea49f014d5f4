/**
 * What is the same to the bit on a GPU. On a device opened with `batchInvariant`: a row, whatever else is in the run and however
 * many rows the program is made for. On every device: a run that is repeated, also while another queue is at work.
 */
import assert from 'node:assert/strict';
import {
  type Device,
  type Dtype,
  expertBank,
  formatName,
  Graph,
  type HostArray,
  Model,
  openDevice,
  Tensor,
  Weight,
  type WeightFormat,
  type WeightSpec,
} from '../../lib/index.ts';
import { KvCache } from '../../lib/model/kv-cache.ts';
import { bankData, type Parts } from '../conformance/bank-data.ts';
import { cases, type Operation } from '../conformance/cases.ts';
import { Kit, type Result, toDtype } from '../conformance/kit.ts';
import { generator, integers, normals, shuffled } from '../conformance/random.ts';
import { goldenFolder } from '../model/support.ts';
import { onlyDevice } from '../only-device.ts';

const name = onlyDevice ?? 'simt';
const counts = [1, 3, 17, 70] as const;
const rows = 70;
const normal = (count: number, seed: number): Float32Array => normals(generator(seed), count);

/** What a graph reads by the row, and how wide a row is. */
type Rows = Readonly<Record<string, readonly [width: number, data: Float32Array | Int32Array]>>;

/** All rows, `together` of them a run, in a program made for as many. Outputs are [tokens, …]. */
async function results(
  device: Device,
  build: (g: Graph) => void,
  inputs: Rows,
  together: number,
): Promise<Record<string, HostArray[]>> {
  const g = new Graph(device);
  build(g);
  using program = g.compile({ tokens: together });
  const found: Record<string, HostArray[]> = {};
  for (let first = 0; first < rows; first += together) {
    const last = Math.min(rows, first + together);
    const part = Object.entries(inputs).map(([key, [width, data]]) => [key, data.slice(first * width, last * width)]);
    const outputs = await program.run(Object.fromEntries(part));
    for (const [key, tensor] of Object.entries(outputs)) {
      const data = await tensor.read();
      const width = data.length / (last - first);
      for (let row = 0; row < last - first; row++) {
        found[key] ??= [];
        found[key].push(data.slice(row * width, (row + 1) * width));
      }
      tensor.dispose();
    }
  }
  return found;
}

/** Rows at once in every count against rows alone. */
async function assertInvariant(device: Device, build: (g: Graph) => void, inputs: Rows): Promise<void> {
  const [least, ...others] = counts;
  const alone = await results(device, build, inputs, least);
  for (const together of others) {
    for (const [key, found] of Object.entries(await results(device, build, inputs, together))) {
      for (const [row, data] of found.entries())
        assert.deepEqual(data, alone[key]?.[row], `${key}: row ${row} of ${together} at once`);
    }
  }
}

const formats: readonly WeightFormat[] = [
  { format: 'f32' },
  { format: 'f16' },
  { format: 'bf16' },
  { format: 'int8' },
  { format: 'int8', groupSize: 64, offset: true },
  { format: 'int4', groupSize: 32 },
  { format: 'int4', groupSize: 'channel', scale: 'f32' },
  { format: 'int4', dual: true },
];
const bf16: WeightFormat = { format: 'bf16' };
const int8: WeightFormat = { format: 'int8' };
const int4: WeightFormat = { format: 'int4' };
const banks: readonly (readonly [title: string, parts: Parts])[] = [
  ...formats.map((format) => [formatName(format), { format }] as const),
  ['int4 + rank 16', { format: int4, lowRank: { rank: 16 } }],
  ['rank 8 + 9 rows', { lowRank: { rank: 8 }, rows: { count: 9, format: bf16 } }],
  ['2:4 bf16', { sparse: { n: 2, m: 4, format: bf16 } }],
  ['2:4 int8', { sparse: { n: 2, m: 4, format: int8 } }],
  ['2:4 int4', { sparse: { n: 2, m: 4, format: int4 } }],
  ['3:16 bf16', { sparse: { n: 3, m: 16, format: bf16 } }],
];
const modesOf = ({ format, sparse }: Parts): readonly ('exact' | 'int8')[] =>
  [format, sparse?.format].some((one) => one?.format === 'int8' || one?.format === 'int4')
    ? ['exact', 'int8']
    : ['exact'];

/** Of attention. */
interface Shape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly size: number;
  readonly dtype: Dtype;
}
const shapes: readonly Shape[] = [
  { heads: 4, kvHeads: 2, size: 24, dtype: 'f32' },
  { heads: 8, kvHeads: 2, size: 64, dtype: 'bf16' },
  { heads: 2, kvHeads: 2, size: 40, dtype: 'f16' },
];

/** Keys in the caches at first, by sequence. */
const past = [0, 600, 37, 250, 5] as const;
/** The next tokens of some sequences: (sequence, how many). */
type Run = readonly (readonly [sequence: number, tokens: number])[];
const oneByOne = (sequence: number, tokens: number): Run[] =>
  Array.from({ length: tokens }, () => [[sequence, 1]] as const);

/** y of every token, by sequence and position. What a token reads hangs on its sequence and position alone. */
async function attend(device: Device, shape: Shape, runs: readonly Run[]): Promise<Map<string, HostArray>> {
  const { heads, kvHeads, size, dtype } = shape;
  const [pageSize, perSequence, newTokens] = [16, 45, 100];
  const widths = { q: heads * size, k: kvHeads * size, v: kvHeads * size };
  const flows = Object.entries(widths).map(([key, width], f) => {
    const data = past.map((_, s) => normal(newTokens * width, 40 + 3 * s + f));
    return { key, width, data };
  });
  const pages = shuffled(generator(60), past.length * perSequence);
  const state = [pages.length, pageSize, kvHeads * size] as const;
  const held = (seed: number) =>
    Tensor.from(device, toDtype(normal(pages.length * pageSize * kvHeads * size, seed), dtype), {
      dtype,
      shape: state,
    });
  using kCache = await held(61);
  using vCache = await held(62);

  const g = new Graph(device);
  const flow = (key: keyof typeof widths) => g.input(key, dtype, ['tokens', widths[key]]);
  const indices = (key: string, symbol: string) => g.input(key, 'i32', [symbol]);
  const y = g.attention({
    q: flow('q'),
    k: flow('k'),
    v: flow('v'),
    positions: indices('positions', 'tokens'),
    sequence: indices('sequence', 'tokens'),
    lengths: indices('lengths', 'sequences'),
    pages: indices('pages', 'table'),
    kCache: g.state('kCache', dtype, state),
    vCache: g.state('vCache', dtype, state),
    heads,
    kvHeads,
  });
  const sequences = Math.max(...runs.map((run) => run.length));
  const tokens = Math.max(...runs.map((run) => run.reduce((sum, [, count]) => sum + count, 0)));
  using program = g.output('y', y).compile({ tokens, sequences, table: sequences * perSequence });

  const done = past.map(() => 0);
  const found = new Map<string, HostArray>();
  for (const run of runs) {
    const places = run.flatMap(([s, count], index) =>
      Array.from({ length: count }, (_, i) => ({ s, index, at: (done[s] as number) + i })),
    );
    for (const [s, count] of run) done[s] = (done[s] as number) + count;
    const inputs: Record<string, HostArray | Tensor> = {
      positions: Int32Array.from(places, ({ s, at }) => (past[s] as number) + at),
      sequence: Int32Array.from(places, ({ index }) => index),
      lengths: Int32Array.from(run, ([s]) => (past[s] as number) + (done[s] as number)),
      pages: Int32Array.from(run.flatMap(([s]) => [...pages.subarray(s * perSequence, (s + 1) * perSequence)])),
      kCache,
      vCache,
    };
    for (const { key, width, data } of flows) {
      const all = new Float32Array(places.length * width);
      for (const [row, { s, at }] of places.entries())
        all.set((data[s] as Float32Array).subarray(at * width, (at + 1) * width), row * width);
      inputs[key] = toDtype(all, dtype);
    }
    const outputs = await program.run(inputs);
    const result = await (outputs.y as Tensor).read();
    outputs.y?.dispose();
    for (const [row, { s, at }] of places.entries())
      found.set(`${s}, ${at}`, result.slice(row * widths.q, (row + 1) * widths.q));
  }
  return found;
}

describe(`${name}, batch invariant: a row is the same in any run`, () => {
  let device: Device;
  before(async () => {
    device = await openDevice(name, { batchInvariant: true });
  });
  after(() => device.dispose());

  const weight = (spec: WeightSpec, seed: number): Promise<Weight> =>
    Weight.from(device, spec, bankData(generator(seed), spec));

  for (const [title, parts] of banks) {
    for (const mode of modesOf(parts)) {
      it(`linear, ${title} ${mode}`, async () => {
        const [width, out] = [264, 72];
        using matrix = await weight({ in: width, out, ...parts, bias: true }, 1);
        const build = (g: Graph): void => {
          const x = g.input('x', 'f32', ['tokens', width]);
          g.output('y', g.linear(x, matrix, { mode, activation: 'silu' }));
        };
        await assertInvariant(device, build, { x: [width, normal(rows * width, 2)] });
      });

      it(`experts, ${title} ${mode}`, async () => {
        const [width, hidden, experts] = [136, 40, 5];
        using up = await weight({ in: width, out: 2 * hidden, slots: experts, gated: true, ...parts }, 3);
        using down = await weight({ in: hidden, out: width, slots: experts, ...parts }, 4);
        const bank = expertBank({ kind: 'swiglu', up, down });
        const build = (g: Graph): void => {
          const x = g.input('x', 'f32', ['tokens', width]);
          const logits = g.input('logits', 'f32', ['tokens', experts]);
          const routing = g.route(logits, { experts, topK: 2, renormalize: true });
          g.output('y', g.experts(x, routing, bank, { mode }));
        };
        await assertInvariant(device, build, {
          x: [width, normal(rows * width, 5)],
          logits: [experts, normal(rows * experts, 6)],
        });
      });
    }
  }

  it('norm and score', async () => {
    const width = 250;
    using scale = await Tensor.from(device, normal(width, 7), { dtype: 'f32', shape: [width] });
    const build = (g: Graph): void => {
      const x = g.input('x', 'f32', ['tokens', width]);
      const { y, sum } = g.addNorm(x, g.input('residual', 'f32', ['tokens', width]), scale);
      const { logProbability, topIds, topLogProbabilities } = g.score(y, {
        ids: g.input('ids', 'i32', ['tokens']),
        topK: 4,
      });
      g.output('y', y)
        .output('sum', sum)
        .output('layer', g.norm(x, undefined, { kind: 'layer', width: 50 }));
      g.output('logProbability', logProbability);
      g.output('topIds', topIds).output('topLogProbabilities', topLogProbabilities);
    };
    await assertInvariant(device, build, {
      x: [width, normal(rows * width, 8)],
      residual: [width, normal(rows * width, 9)],
      ids: [1, integers(generator(10), rows, 0, width)],
    });
  });

  for (const experts of [12, 300]) {
    it(`route and combine, ${experts} experts`, async () => {
      const width = 24;
      const [groupOf, topK] = [integers(generator(11), experts, 0, 6), 4];
      using down = await weight({ in: width, out: width, slots: 6, format: { format: 'f32' } }, 12);
      const build = (g: Graph): void => {
        const logits = g.input('logits', 'f32', ['tokens', experts]);
        const x = g.input('x', 'f32', ['tokens', width]);
        const routing = g.route(logits, { experts, topK, score: 'sigmoid', renormalize: true, groupOf, slots: 6 });
        g.output('ids', routing.ids).output('gates', routing.gates);
        g.output('y', g.combine(g.linear(x, down, { routing }), routing, { residual: x }));
      };
      await assertInvariant(device, build, {
        logits: [experts, normal(rows * experts, 13)],
        x: [width, normal(rows * width, 14)],
      });
    });
  }

  for (const shape of shapes) {
    const { heads, kvHeads, size, dtype } = shape;
    const title = `attention, ${heads} heads of ${size} over ${kvHeads}, ${dtype}`;

    it(`${title}: tokens of a sequence at once and one by one`, async () => {
      for (const sequence of [0, 1]) {
        const alone = await attend(device, shape, oneByOne(sequence, rows));
        for (const together of counts.slice(1)) {
          const runs: Run[] = [];
          for (let first = 0; first < rows; first += together)
            runs.push([[sequence, Math.min(together, rows - first)]]);
          assert.deepEqual(await attend(device, shape, runs), alone, `${together} at once`);
        }
      }
    });

    it(`${title}: sequences beside others and alone`, async () => {
      const batch: Run[] = [past.map((_, sequence) => [sequence, 1 + 13 * (sequence % 3)]), past.map((_, s) => [s, 1])];
      const alone = new Map<string, HostArray>();
      for (const [sequence] of past.entries()) {
        const tokens = batch.reduce((sum, run) => sum + (run[sequence]?.[1] ?? 0), 0);
        for (const [key, data] of await attend(device, shape, oneByOne(sequence, tokens))) alone.set(key, data);
      }
      assert.deepEqual(new Map([...(await attend(device, shape, batch))].sort()), new Map([...alone].sort()));
    });
  }

  for (const [family, weights] of [
    ['mixtral', undefined],
    ['qwen2_moe', { format: 'int4', attention: 'int8' }],
  ] as const) {
    it(`logits of ${family}, ${weights ? 'int4 and int8 weights' : 'weights as stored'}`, async () => {
      await using model = await Model.open(goldenFolder(family), { device, weights });
      const { vocabulary } = model.config;
      const [text, beside] = [31, 32].map((seed) => integers(generator(seed), rows, 0, vocabulary)) as [
        Int32Array,
        Int32Array,
      ];
      const cache = new KvCache(device, model.config, 2 * rows);
      /** Logits of the first of the texts; a run has the next `together` tokens of each. */
      const logits = async (texts: readonly Int32Array[], together: number): Promise<Float32Array> => {
        const found = new Float32Array(rows * vocabulary);
        const parts = texts.map((ids) => ({ ids, sequence: cache.sequence() }));
        for (let first = 0; first < rows; first += together) {
          const chunks = parts.map(({ ids, sequence }) => ({ sequence, ids: ids.subarray(first, first + together) }));
          const tokens = Math.min(together, rows - first);
          const data = new Float32Array(texts.length * tokens * vocabulary);
          await model.runner.logits(chunks, data, { cache });
          found.set(data.subarray(0, tokens * vocabulary), first * vocabulary);
        }
        for (const { sequence } of parts) cache.release(sequence);
        return found;
      };
      try {
        const alone = await logits([text], 1);
        for (const together of counts.slice(1))
          assert.deepEqual(await logits([text], together), alone, `${together} at once`);
        assert.deepEqual(await logits([text, beside], 17), alone, '17 at once, beside another text');
      } finally {
        cache.dispose();
      }
    });
  }
});

describe(`${name}: a run gives the same bits again, alone and beside another queue`, () => {
  let device: Device;
  let beside: Device;
  before(async () => {
    [device, beside] = [await openDevice(name), await openDevice(name)];
  });
  after(() => {
    device.dispose();
    beside.dispose();
  });

  const run = async (on: Device, subject: (typeof cases)[Operation][number]): Promise<Result[]> => {
    const kit = new Kit(on, 5);
    try {
      await subject.build(kit);
    } catch (error) {
      kit.dispose();
      throw error;
    }
    return kit.run();
  };

  for (const operation of Object.keys(cases) as Operation[]) {
    it(operation, async () => {
      // Some thirty of each, from the whole table.
      const subjects = cases[operation].filter(({ refusedBy }) => !refusedBy?.includes(name));
      const step = Math.ceil(subjects.length / 30);
      for (const subject of subjects.filter((_, index) => index % step === 0)) {
        const alone = await run(device, subject);
        const [again, other] = await Promise.all([run(device, subject), run(beside, subject)]);
        assert.deepEqual(again, alone, `${subject.title}: again`);
        assert.deepEqual(other, alone, `${subject.title}: on another queue`);
      }
    });
  }
});
