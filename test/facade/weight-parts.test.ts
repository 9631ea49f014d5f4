/** Banks of several parts: what they compute, from f32 data and from stored pieces, and what they refuse. */
import assert from 'node:assert/strict';
import { addon } from '../../lib/addon.ts';
import {
  type Device,
  formatBytes,
  Graph,
  openDevice,
  parseWeightFormat,
  type Tensor,
  Weight,
  type WeightSpec,
  type WeightValues,
} from '../../lib/index.ts';
import { bankData } from '../conformance/bank-data.ts';
import { generator } from '../conformance/random.ts';
import { moeError, normal } from './support.ts';

const format = { format: 'f32' } as const;

/** Every slot as one dense matrix [out, in], by the formulas of docs/weights.md. */
function dense(spec: WeightSpec, data: WeightValues): Float64Array[] {
  const { slots = 1, baseOf, lowRank, rows, sparse } = spec;
  const at = { a: 0, b: 0, row: 0, sparse: 0 };
  return Array.from({ length: slots }, (_, slot) => {
    const matrix = new Float64Array(spec.out * spec.in);
    const add = (n: number, k: number, value: number) => {
      if (k < spec.in) matrix[n * spec.in + k] = (matrix[n * spec.in + k] as number) + value;
    };
    const base = (baseOf?.[slot] ?? slot) * matrix.length;
    for (let i = 0; data.base && i < matrix.length; i++) matrix[i] = data.base[base + i] as number;
    const rank = lowRank ? ((lowRank.rank as number[])[slot] as number) : 0;
    for (let n = 0; n < spec.out; n++) {
      for (let k = 0; k < spec.in; k++) {
        for (let r = 0; data.lowRank && r < rank; r++) {
          const { a, b } = data.lowRank;
          add(n, k, (b[at.b + n * rank + r] as number) * (a[at.a + r * spec.in + k] as number));
        }
      }
    }
    const count = rows ? ((rows.count as number[])[slot] as number) : 0;
    at.a += rank * spec.in;
    at.b += rank * spec.out;
    for (let i = 0; data.rows && i < count; i++, at.row++) {
      for (let k = 0; k < spec.in; k++)
        add(data.rows.index[at.row] as number, k, data.rows.values[at.row * spec.in + k] as number);
    }
    const width = sparse ? Math.ceil(spec.in / sparse.m) * sparse.n : 0;
    for (let i = 0; sparse && data.sparse && i < spec.out * width; i++, at.sparse++) {
      const place = Math.floor((i % width) / sparse.n) * sparse.m + (data.sparse.index[at.sparse] as number);
      add(Math.floor(i / width), place, data.sparse.values[at.sparse] as number);
    }
    return matrix;
  });
}

/** One row of x through every slot: y [slots, out]. */
async function multiply(device: Device, weight: Weight, x: Float32Array): Promise<Float32Array> {
  const { slots = 1, in: width } = weight.spec;
  const g = new Graph(device);
  const ids = g.input('ids', 'i32', ['tokens', 1]);
  const gates = g.input('gates', 'f32', ['tokens', 1]);
  const routing = g.route(undefined, { experts: slots, topK: 1, ids, gates });
  const input = g.input('x', 'f32', ['tokens', width]);
  const program = g.output('y', g.linear(input, weight, { routing, mode: 'exact' })).compile({ tokens: slots });
  const all = new Float32Array(slots * width);
  for (let slot = 0; slot < slots; slot++) all.set(x, slot * width);
  const inputs = {
    x: all,
    ids: Int32Array.from({ length: slots }, (_, i) => i),
    gates: new Float32Array(slots).fill(1),
  };
  const { y } = await program.run(inputs);
  program.dispose();
  const read = (await (y as Tensor).read()) as Float32Array;
  y?.dispose();
  return read;
}

describe('weights of several parts', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('reference');
  });
  after(() => device.dispose());

  it('are the sum of their parts', async () => {
    const spec: WeightSpec = {
      in: 11,
      out: 6,
      slots: 4,
      format,
      baseOf: [1, 0, 1, 1],
      lowRank: { rank: [2, 0, 3, 1], format },
      rows: { count: [0, 3, 1, 6], format },
      sparse: { n: 2, m: 4, format },
    };
    for (const without of [[], ['format', 'baseOf'], ['lowRank', 'sparse'], ['rows'], ['format', 'baseOf', 'sparse']]) {
      const some = Object.fromEntries(
        Object.entries(spec).filter(([key]) => !without.includes(key)),
      ) as unknown as WeightSpec;
      const data = bankData(generator(3), some);
      const weight = await Weight.from(device, some, data);
      const x = normal(11);
      const y = await multiply(device, weight, x);
      for (const [slot, matrix] of dense(some, data).entries()) {
        for (let n = 0; n < 6; n++) {
          const wanted = x.reduce((sum, value, k) => sum + value * (matrix[n * 11 + k] as number), 0);
          const got = y[slot * 6 + n] as number;
          assert.ok(Math.abs(got - wanted) < 1e-5, `without ${without}, slot ${slot}, row ${n}: ${got} for ${wanted}`);
        }
      }
      weight.dispose();
    }
    assert.equal(device.memory().held, 0);
  });

  it('load from stored dual-grained rows, and hold what the format says', async () => {
    const dual = parseWeightFormat('int4:64:dual');
    const [rows, columns] = [5, 133];
    const data = normal(rows * columns);
    const [values, scale, outer] = [new Uint8Array(rows * 67), new Uint8Array(rows * 3), new Uint8Array(rows * 2)];
    const form = { store: 'i4', scale: 'i8', group: 64, outer: 'f16' } as const;
    await addon().quantize(data, rows, columns, form, values, scale, undefined, outer);
    const piece = { part: 'base', slot: 0, row: 0, rows, form, values, scale, outer } as const;
    const spec = { in: columns, out: rows, format: dual };
    const [loaded, made] = [await Weight.load(device, spec, [piece]), await Weight.from(device, spec, data)];
    assert.deepEqual([loaded.bytes, made.bytes], [formatBytes(dual, rows, columns), rows * (67 + 3 + 2)]);
    const x = normal(columns, 2);
    const y = await multiply(device, loaded, x);
    assert.deepEqual(y, await multiply(device, made, x));
    const wide = new Float32Array(rows * columns);
    await addon().dequantize(values, scale, undefined, rows, columns, form, wide, outer);
    for (let n = 0; n < rows; n++) {
      const row = wide.subarray(n * columns, (n + 1) * columns);
      const wanted = row.reduce((sum, value, k) => sum + value * (x[k] as number), 0);
      assert.ok(Math.abs((y[n] as number) - wanted) < 1e-4, `row ${n}: ${y[n]} for ${wanted}`);
    }
    loaded.dispose();
    made.dispose();
    scale[1] = 127; // times a code of 7
    await assert.rejects(Weight.load(device, spec, [piece]), moeError('INVALID_ARGUMENT', 'values'));
  });

  it('keep the spec that they were loaded by, to the last list', async () => {
    const rank = [2, 1];
    const spec = { in: 4, out: 4, slots: 2, lowRank: { rank, format } };
    const making = Weight.from(device, spec, { lowRank: { a: normal(12), b: normal(12) } });
    rank.fill(0);
    spec.in = 1;
    const weight = await making;
    assert.deepEqual([weight.spec.in, weight.spec.lowRank?.rank], [4, [2, 1]]);
    weight.dispose();
  });

  it('refuse specs and data that do not go together', async () => {
    const [lowRank, a, b] = [{ rank: 2, format }, normal(16), normal(16)];
    const sparse = { n: 1, m: 4, format };
    const places = { values: normal(16), index: new Uint8Array(16) };
    const kept = { values: normal(8), index: Int32Array.of(8) };
    const refusals: [
      string,
      'INVALID_ARGUMENT' | 'SHAPE_MISMATCH' | 'DTYPE_MISMATCH',
      Partial<WeightSpec>,
      WeightValues,
    ][] = [
      ['format', 'INVALID_ARGUMENT', {}, {}],
      ['values', 'INVALID_ARGUMENT', { lowRank }, { base: normal(64), lowRank: { a, b } }],
      ['bias', 'DTYPE_MISMATCH', { lowRank, bias: true }, { lowRank: { a, b } }],
      ['lowRank.a', 'DTYPE_MISMATCH', { lowRank }, {}],
      ['lowRank.b', 'SHAPE_MISMATCH', { lowRank }, { lowRank: { a, b: normal(8) } }],
      ['lowRank.rank', 'INVALID_ARGUMENT', { lowRank: { rank: 0 } }, { lowRank: { a, b } }],
      ['lowRank.rank', 'INVALID_ARGUMENT', { lowRank: { rank: [-1] } }, { lowRank: { a, b } }],
      ['spec.lowRank.rank', 'INVALID_ARGUMENT', { lowRank: { rank: [2, 2] } }, { lowRank: { a, b } }],
      ['rows.index', 'DTYPE_MISMATCH', { rows: { count: 1, format } }, { rows: { values: b, index: a as never } }],
      ['index', 'INVALID_ARGUMENT', { rows: { count: 1, format } }, { rows: kept }],
      ['index', 'INVALID_ARGUMENT', { sparse }, { sparse: { ...places, index: new Uint8Array(16).fill(4) } }],
      [
        'spec.sparse.m',
        'INVALID_ARGUMENT',
        { sparse: { ...sparse, m: 257 } },
        { sparse: { values: normal(8), index: new Uint8Array(8) } },
      ],
      [
        'spec.sparse.n',
        'INVALID_ARGUMENT',
        { sparse: { ...sparse, n: 4 } },
        { sparse: { values: normal(64), index: new Uint8Array(64) } },
      ],
      [
        'offset',
        'INVALID_ARGUMENT',
        { sparse: { ...sparse, format: { format: 'int8', offset: true } } },
        { sparse: places },
      ],
      [
        'outer',
        'INVALID_ARGUMENT',
        { sparse: { ...sparse, format: { format: 'int4', dual: true } } },
        { sparse: places },
      ],
      ['sparse.format', 'INVALID_ARGUMENT', { sparse: { n: 1, m: 4 } as never }, { sparse: places }],
      ['spec.baseOf', 'INVALID_ARGUMENT', { format, baseOf: [1] }, { base: normal(64) }],
      ['baseOf', 'INVALID_ARGUMENT', { lowRank, baseOf: [0] }, { lowRank: { a, b } }],
      ['dual', 'INVALID_ARGUMENT', { format: { format: 'int8', dual: true } }, { base: normal(64) }],
      [
        'groupSize',
        'INVALID_ARGUMENT',
        { format: { format: 'int4', dual: true, groupSize: 'channel' } },
        { base: normal(64) },
      ],
    ];
    for (const [argument, code, parts, values] of refusals) {
      await assert.rejects(Weight.from(device, { in: 8, out: 8, ...parts }, values), moeError(code, argument));
    }
    const huge = Weight.from(device, { in: 8, out: 8, slots: 2 ** 40, lowRank }, { lowRank: { a, b } });
    await assert.rejects(huge, moeError('SHAPE_MISMATCH', 'values'));
    assert.equal(device.memory().held, 0);
  });
});
