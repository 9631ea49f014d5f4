/** cpu: the same to the bit for any number of threads, from run to run, and for rows at once or alone. */
import assert from 'node:assert/strict';
import {
  type Device,
  expertBank,
  formatName,
  Graph,
  openDevice,
  Tensor,
  Weight,
  type WeightFormat,
  type WeightSpec,
} from '../../lib/index.ts';
import { bankData, type Parts } from '../conformance/bank-data.ts';
import { cases, type Operation } from '../conformance/cases.ts';
import { Kit, type Result } from '../conformance/kit.ts';
import { generator, shuffled } from '../conformance/random.ts';
import { normal } from './support.ts';

const bits = (result: Result): Buffer =>
  Buffer.from(result.data.buffer, result.data.byteOffset, result.data.byteLength);

describe('cpu: 1 and 2 threads and a second run are the same to the bit', () => {
  let one: Device;
  let two: Device;
  before(async () => {
    [one, two] = [await openDevice('cpu', { threads: 1 }), await openDevice('cpu', { threads: 2 })];
  });
  after(() => {
    one.dispose();
    two.dispose();
  });

  for (const operation of Object.keys(cases) as Operation[]) {
    it(operation, async function () {
      this.timeout(300_000); // linear alone has hundreds of cases
      for (const subject of cases[operation]) {
        const results: Result[][] = [];
        for (const device of [one, two, two]) {
          const kit = new Kit(device, 5);
          await subject.build(kit);
          results.push(await kit.run());
        }
        const [first = [], second = [], third = []] = results;
        for (const [i, wanted] of first.entries()) {
          assert.ok(bits(wanted).equals(bits(second[i] as Result)), `${subject.title}: ${wanted.name}, threads`);
          assert.ok(bits(wanted).equals(bits(third[i] as Result)), `${subject.title}: ${wanted.name}, again`);
        }
      }
    });
  }
});

const bases: readonly WeightFormat[] = [
  { format: 'f32' },
  { format: 'f16' },
  { format: 'bf16' },
  { format: 'int8' },
  { format: 'int8', groupSize: 32, offset: true, scale: 'f16' },
  { format: 'int4' },
  { format: 'int4', groupSize: 64, offset: false },
  { format: 'int4', groupSize: 128 },
  { format: 'int4', groupSize: 'channel', scale: 'f32' },
];
const lowRank = { rank: 17 };
const rows = (format: WeightFormat) => ({ rows: { count: 13, format } });
const sparse = (n: number, m: number, format: WeightFormat) => ({ sparse: { n, m, format } });
const forms: readonly Parts[] = [
  ...bases.map((format) => ({ format })),
  { format: { format: 'int4', dual: true } },
  { format: { format: 'int4' }, lowRank },
  { lowRank, ...rows({ format: 'bf16' }) },
  { format: { format: 'bf16' }, lowRank },
  rows({ format: 'int8', groupSize: 64, offset: true }),
  sparse(2, 4, { format: 'bf16' }),
  sparse(2, 4, { format: 'int4' }),
  sparse(1, 8, { format: 'int8' }),
  sparse(3, 24, { format: 'f32' }),
  sparse(3, 24, { format: 'int8', groupSize: 'channel' }),
  { format: { format: 'int8' }, lowRank, ...rows({ format: 'int4' }), ...sparse(2, 4, { format: 'int4' }) },
];
const titleOf = (form: Parts): string =>
  [
    form.format && formatName(form.format),
    form.lowRank && 'low rank',
    form.rows && `rows ${formatName(form.rows.format)}`,
    form.sparse && `${form.sparse.n}:${form.sparse.m} ${formatName(form.sparse.format)}`,
  ]
    .filter(Boolean)
    .join(' + ');
const modesOf = (form: Parts) =>
  [form.format, form.rows?.format, form.sparse?.format].some((one) => one?.format === 'int8' || one?.format === 'int4')
    ? (['exact', 'int8', 'auto'] as const)
    : (['exact', 'auto'] as const);

describe('cpu: 64 rows at once are 64 runs of one, to the bit', () => {
  const rowCount = 64;
  const width = 264;
  const out = 72;
  const x = normal(rowCount * width, 11);
  let device: Device;
  before(async () => {
    device = await openDevice('cpu', { threads: 2 });
  });
  after(() => device.dispose());
  const weightOf = (spec: WeightSpec, seed: number) => Weight.from(device, spec, bankData(generator(seed), spec));

  for (const form of forms) {
    for (const mode of modesOf(form)) {
      it(`linear, ${titleOf(form)} ${mode}`, async () => {
        const weight = await weightOf({ in: width, out, bias: true, ...form }, 12);
        const g = new Graph(device);
        const y = g.linear(g.input('x', 'f32', ['tokens', width]), weight, { mode, activation: 'silu' });
        const program = g.output('y', y).compile({ tokens: rowCount });
        const whole = program.runSync({ x }, { into: { y: new Float32Array(rowCount * out) } }).y;
        const alone = new Float32Array(rowCount * out);
        for (let row = 0; row < rowCount; row++) {
          program.runSync(
            { x: x.subarray(row * width, (row + 1) * width) },
            { into: { y: alone.subarray(row * out, (row + 1) * out) } },
          );
        }
        assert.deepEqual(alone, whole);
        program.dispose();
        weight.dispose();
      });

      it(`experts, ${titleOf(form)} ${mode}`, async () => {
        const experts = 12;
        const up = await weightOf({ in: width, out: 80, slots: experts, gated: true, ...form }, 14);
        const down = await weightOf({ in: 40, out: width, slots: experts, ...form }, 15);
        const bank = expertBank({ kind: 'swiglu', up, down });
        const g = new Graph(device);
        const tokens = g.input('x', 'f32', ['tokens', width]);
        const routing = g.route(g.input('logits', 'f32', ['tokens', experts]), { experts, topK: 3, renormalize: true });
        const program = g.output('y', g.experts(tokens, routing, bank, { mode })).compile({ tokens: rowCount });
        const logits = normal(rowCount * experts, 16);
        const whole = program.runSync({ x, logits }, { into: { y: new Float32Array(rowCount * width) } }).y;
        const alone = new Float32Array(rowCount * width);
        for (let row = 0; row < rowCount; row++) {
          const own = {
            x: x.subarray(row * width, (row + 1) * width),
            logits: logits.subarray(row * experts, (row + 1) * experts),
          };
          program.runSync(own, { into: { y: alone.subarray(row * width, (row + 1) * width) } });
        }
        assert.deepEqual(alone, whole);
        program.dispose();
        bank.dispose();
      });
    }
  }

  it('attention, one new token of each of 64 sequences', async () => {
    const [heads, kvHeads, size, pageSize, perSequence] = [4, 2, 24, 16, 3];
    const pageCount = rowCount * perSequence;
    const state = [pageCount, pageSize, kvHeads * size];
    const g = new Graph(device);
    const flow = (name: string, count: number) => g.input(name, 'f32', ['tokens', count]);
    const indices = (name: string, symbol: string) => g.input(name, 'i32', [symbol]);
    const y = g.attention({
      q: flow('q', heads * size),
      k: flow('k', kvHeads * size),
      v: flow('v', kvHeads * size),
      positions: indices('positions', 'tokens'),
      sequence: indices('sequence', 'tokens'),
      lengths: indices('lengths', 'sequences'),
      pages: indices('pages', 'table'),
      kCache: g.state('kCache', 'f32', state),
      vCache: g.state('vCache', 'f32', state),
      heads,
      kvHeads,
    });
    const program = g.output('y', y).compile({ tokens: rowCount, sequences: rowCount, table: pageCount });
    const elements = pageCount * pageSize * kvHeads * size;
    const random = generator(21);
    const pages = shuffled(random, pageCount);
    const lengths = Int32Array.from({ length: rowCount }, () => 1 + Math.floor(random() * pageSize * perSequence));
    const q = normal(rowCount * heads * size, 22);
    const k = normal(rowCount * kvHeads * size, 23);
    const v = normal(rowCount * kvHeads * size, 24);
    const caches = async () => ({
      kCache: await Tensor.from(device, normal(elements, 25), { dtype: 'f32', shape: state }),
      vCache: await Tensor.from(device, normal(elements, 26), { dtype: 'f32', shape: state }),
    });
    const sequence = Int32Array.from({ length: rowCount }, (_, i) => i);
    const positions = lengths.map((length) => length - 1);
    const batch = { q, k, v, positions, sequence, lengths, pages, ...(await caches()) };
    const whole = program.runSync(batch, { into: { y: new Float32Array(rowCount * heads * size) } }).y;
    const alone = new Float32Array(rowCount * heads * size);
    const own = await caches();
    for (let row = 0; row < rowCount; row++) {
      const part = <A extends Float32Array | Int32Array>(data: A, count: number): A =>
        data.subarray(row * count, (row + 1) * count) as A;
      const single = {
        q: part(q, heads * size),
        k: part(k, kvHeads * size),
        v: part(v, kvHeads * size),
        positions: part(positions, 1),
        sequence: Int32Array.of(0),
        lengths: part(lengths, 1),
        pages: part(pages, perSequence),
        ...own,
      };
      program.runSync(single, { into: { y: part(alone, heads * size) } });
    }
    assert.deepEqual(alone, whole);
    for (const tensor of [own.kCache, own.vCache, batch.kCache, batch.vCache]) tensor.dispose();
    program.dispose();
  });
});
