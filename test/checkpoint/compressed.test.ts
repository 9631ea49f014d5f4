import { strict as assert } from 'node:assert';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { compressedJson, compressedSection, matrixSource, plainPart } from '../../lib/checkpoint/compressed.ts';
import { tensorBytes } from '../../lib/checkpoint/safetensors.ts';
import {
  packPlaces,
  partEntries,
  type StoredForm,
  type StoredIntegers,
  storedNativeForm,
  storedParts,
  unpackPlaces,
} from '../../lib/checkpoint/stored-matrix.ts';
import { SafetensorsWriter } from '../../lib/checkpoint/writer.ts';
import { inFolder, moeError } from './support.ts';

const weights: StoredIntegers = { format: 'int4', groupSize: 32, offset: true, scale: 'f16' };
const compressedEntries = (name: string, rows: number, columns: number, form: StoredForm) =>
  partEntries(plainPart(name, form, rows, columns));
const bf16 = { format: 'bf16' } as const;
const plain = { base: bf16 };
const layer = { groups: 2, groupOf: [0, 1, 1, 0] };
const good = {
  version: 1,
  madeBy: 'node-moe 0.1.0',
  recipe: { steps: ['merge'] },
  weights,
  layers: { 0: { groups: 2, groupOf: [0, 1, 1, 0] }, 3: { groups: 4, groupOf: [3, 2, 1, 0] } },
};

describe('compressed section', () => {
  it('keeps what a layer stores', () => {
    const stored = {
      ...layer,
      router: 'slots',
      groupOf: [0, -1, 1, -1],
      widths: [48, 0],
      matrices: {
        gate: { lowRank: { form: bf16, rank: [2, 0], sharedA: false }, base: weights },
        up: { lowRank: { form: bf16, rank: [2, 0], sharedA: true }, base: { ...weights, offset: false, dual: true } },
        down: { rows: { form: weights, count: [1, 2] }, sparse: { form: bf16, n: 2, m: 4 } },
        baseOf: [0, 0],
      },
    };
    const section = compressedSection({ moe: { ...good, version: 2, weights: null, layers: { 1: stored } } });
    assert.ok(section);
    assert.deepEqual(section.layers.get(1)?.matrices?.baseOf, Int32Array.of(0, 0));
    assert.deepEqual(JSON.parse(JSON.stringify(compressedJson(section))).layers, { 1: stored });
  });

  it('survives the way through config.json', () => {
    const section = compressedSection({ moe: good }, { layers: 4, experts: 4 });
    assert.ok(section);
    assert.deepEqual(section.layers.get(0), { groups: 2, groupOf: Int32Array.of(0, 1, 1, 0), router: 'experts' });
    assert.deepEqual([...section.layers.keys()], [0, 3]);
    assert.deepEqual(JSON.parse(JSON.stringify(compressedJson(section))), JSON.parse(JSON.stringify(good)));
  });

  it('may be absent, and may be without weights or layers', () => {
    assert.equal(compressedSection({}), undefined);
    assert.equal(compressedSection({ moe: null }), undefined);
    const section = compressedSection({ moe: { version: 1, madeBy: 'x', weights: null } });
    assert.deepEqual(section, { version: 1, madeBy: 'x', recipe: {}, weights: null, layers: new Map() });
  });

  const bad: [unknown, RegExp][] = [
    [[], /moe: expected an object/],
    [{ ...good, version: 3 }, /moe\.version: expected 1 or 2, got 3/],
    [{ ...good, version: undefined }, /moe\.version/],
    [{ ...good, madeBy: 1 }, /moe\.madeBy/],
    [{ ...good, recipe: 'x' }, /moe\.recipe/],
    [{ ...good, weights: 'int4' }, /moe\.weights/],
    [{ ...good, weights: { ...weights, format: 'int3' } }, /moe\.weights\.format/],
    [{ ...good, weights: { ...weights, groupSize: 16 } }, /moe\.weights\.groupSize/],
    [{ ...good, weights: { ...weights, offset: 1 } }, /moe\.weights\.offset/],
    [{ ...good, weights: { ...weights, scale: 'bf16' } }, /moe\.weights\.scale/],
    [{ ...good, layers: [] }, /moe\.layers/],
    [{ ...good, layers: { x: good.layers[0] } }, /moe\.layers\.x/],
    [{ ...good, layers: { '-1': good.layers[0] } }, /moe\.layers\.-1/],
    [{ ...good, layers: { '01': good.layers[0] } }, /moe\.layers\.01/],
    [{ ...good, layers: { 4: good.layers[0] } }, /moe\.layers\.4: expected a layer index from 0 to 3/],
    [{ ...good, layers: { 0: null } }, /moe\.layers\.0/],
    [{ ...good, layers: { 0: { groups: 0, groupOf: [] } } }, /moe\.layers\.0\.groups/],
    [{ ...good, layers: { 0: { groups: 5, groupOf: [0, 1, 2, 3] } } }, /moe\.layers\.0\.groups/],
    [{ ...good, layers: { 0: { groups: 2 } } }, /moe\.layers\.0\.groupOf/],
    [{ ...good, layers: { 0: { groups: 2, groupOf: [0, 1, 1] } } }, /moe\.layers\.0\.groupOf/],
    [{ ...good, layers: { 0: { groups: 2, groupOf: [0, 1, 2, 0] } } }, /moe\.layers\.0\.groupOf/],
    [{ ...good, layers: { 0: { groups: 2, groupOf: [0, 1, -1, 0] } } }, /moe\.layers\.0\.groupOf/],
    [{ ...good, layers: { 0: { groups: 2, groupOf: [0, 1, 0.5, 0] } } }, /moe\.layers\.0\.groupOf/],
    [{ ...good, layers: { 0: { groups: 2, groupOf: [0, 1, '1', 0] } } }, /moe\.layers\.0\.groupOf/],
    [{ ...good, layers: { 0: { ...layer, router: 'rows' } } }, /moe\.layers\.0\.router/],
    [{ ...good, layers: { 0: { ...layer, widths: [4] } } }, /moe\.layers\.0\.widths/],
    [{ ...good, layers: { 0: { ...layer, matrices: {} } } }, /moe\.layers\.0\.matrices\.up/],
    [{ ...good, layers: { 0: { ...layer, matrices: { up: {}, down: plain } } } }, /matrices\.up\.base/],
    [{ ...good, layers: { 0: { ...layer, matrices: { up: plain, down: { base: {} } } } } }, /down\.base\.format/],
    [
      { ...good, layers: { 0: { ...layer, matrices: { up: plain, down: plain, baseOf: [0, 2] } } } },
      /matrices\.baseOf/,
    ],
    [
      { ...good, layers: { 0: { ...layer, matrices: { up: { lowRank: { form: bf16, rank: [1] } }, down: plain } } } },
      /up\.lowRank\.rank/,
    ],
    [
      { ...good, layers: { 0: { ...layer, matrices: { up: { sparse: { form: bf16, n: 4, m: 4 } }, down: plain } } } },
      /up\.sparse\.n/,
    ],
  ];
  for (const [moe, words] of bad) {
    it(`refuses what breaks ${words.source.replaceAll('\\', '').split(':')[0]} (${JSON.stringify(moe).length} characters)`, () => {
      assert.throws(() => compressedSection({ moe }, { layers: 4, experts: 4 }), moeError('CONFIG_INVALID', words));
    });
  }
});

describe('stored matrices', () => {
  it('have the tensors of their parts', () => {
    const matrix = {
      base: bf16,
      lowRank: { form: bf16, rank: [0, 3], sharedA: false },
      rows: { form: weights, count: [0, 2] },
      sparse: { form: { ...weights, offset: false }, n: 2, m: 4 },
    };
    const shapes = (slot: number, hasBase?: boolean) =>
      storedParts('a.weight', matrix, slot, [6, 70], hasBase)
        .flatMap(partEntries)
        .map(({ name, dtype, shape }) => `${name} ${dtype} ${shape}`);
    const sparse = ['a.weight_sparse U8 6,18', 'a.weight_sparse_scale F16 6,3', 'a.weight_sparse_index U8 6,9'];
    assert.deepEqual(shapes(0), ['a.weight BF16 6,70', ...sparse]);
    assert.deepEqual(shapes(1, false), [
      'a.weight_a BF16 3,70',
      'a.weight_b BF16 6,3',
      'a.weight_rows U8 2,35',
      'a.weight_rows_scale F16 2,3',
      'a.weight_rows_offset F16 2,3',
      'a.weight_rows_index I32 2',
      ...sparse,
    ]);
  });

  it('pack places of 2, 4 and 8 bits', () => {
    for (const m of [2, 4, 5, 16, 17, 256]) {
      const places = Uint8Array.from({ length: 3 * 7 }, (_, i) => (i * 37) % m);
      const packed = packPlaces(places, 3, 7, m);
      assert.equal(packed.length, 3 * Math.ceil((7 * (m <= 4 ? 2 : m <= 16 ? 4 : 8)) / 8));
      assert.deepEqual(unpackPlaces(packed, 3, 7, m), places);
    }
    assert.deepEqual(packPlaces(Uint8Array.of(1, 3, 0, 2), 1, 4, 4), Uint8Array.of(0b10_00_11_01));
  });
});

describe('compressed matrices', () => {
  it('have the entries of their form', () => {
    assert.deepEqual(compressedEntries('a.weight', 3, 65, weights), [
      { name: 'a.weight', dtype: 'U8', shape: [3, 33] },
      { name: 'a.weight_scale', dtype: 'F16', shape: [3, 3] },
      { name: 'a.weight_offset', dtype: 'F16', shape: [3, 3] },
    ]);
    assert.deepEqual(
      compressedEntries('a', 3, 65, { format: 'int8', groupSize: 'channel', offset: false, scale: 'f32' }),
      [
        { name: 'a', dtype: 'I8', shape: [3, 65] },
        { name: 'a_scale', dtype: 'F32', shape: [3, 1] },
      ],
    );
    assert.deepEqual(storedNativeForm(weights), { store: 'i4', scale: 'f16', offset: true, group: 32 });
  });

  it('are found in a folder, float and quantized side by side', () =>
    inFolder(async (folder) => {
      await writeFile(join(folder, 'config.json'), '{}');
      const quantized = compressedEntries('a.weight', 2, 64, weights);
      const entries = [
        ...quantized,
        { name: 'b.weight', dtype: 'BF16', shape: [2, 64] } as const,
        { name: 'c', dtype: 'I8', shape: [2] } as const,
      ];
      const writer = await SafetensorsWriter.create(join(folder, 'model.safetensors'), entries);
      for (const { name, dtype, shape } of entries)
        await writer.write(name, new Uint8Array(tensorBytes(dtype, shape) as number));
      await writer.finish();
      await using checkpoint = await Checkpoint.open(folder);
      const source = matrixSource(checkpoint, 'a.weight', 2, 64, weights);
      assert.deepEqual(source.form, storedNativeForm(weights));
      const lengths = [source.values, source.scale, source.offset].map((part) =>
        part && 'file' in part ? part.bytes : undefined,
      );
      assert.deepEqual(lengths, [64, 8, 8]);
      const plain = matrixSource(checkpoint, 'b.weight', 2, 64, weights);
      assert.deepEqual(plain.form, { store: 'bf16' });
      assert.equal('scale' in plain, false);
      const from = (name: string, rows: number, columns: number, form: StoredIntegers | null) => () =>
        matrixSource(checkpoint, name, rows, columns, form);
      assert.throws(from('a.weight', 2, 64, null), moeError('CONFIG_INVALID', /moe\.weights/));
      assert.throws(
        from('a.weight', 2, 66, weights),
        moeError('SHAPE_MISMATCH', /a\.weight: expected \[2, 33\], got \[2, 32\]/),
      );
      assert.throws(
        from('a.weight', 2, 64, { ...weights, scale: 'f32' }),
        moeError('DTYPE_MISMATCH', /a\.weight_scale: expected F32/),
      );
      assert.throws(from('b.weight', 2, 63, weights), moeError('SHAPE_MISMATCH', /b\.weight/));
      assert.throws(from('c', 2, 1, weights), moeError('DTYPE_MISMATCH', /c: expected F32, F16 or BF16/));
      assert.throws(from('d', 2, 1, weights), moeError('CHECKPOINT_TENSOR_MISSING', /d/));
    }));
});
