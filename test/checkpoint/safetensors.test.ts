import { strict as assert } from 'node:assert';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import {
  elementsOf,
  maximumHeaderBytes,
  parseHeader,
  readHeader,
  tensorBytes,
} from '../../lib/checkpoint/safetensors.ts';
import { MoeError } from '../../lib/errors.ts';
import { container, inFolder, item, moeError } from './support.ts';

function parse(file: Uint8Array) {
  return parseHeader(file, file.length, 'model.safetensors');
}

function tensor(fields: string): string {
  return `{"a":{${fields}}}`;
}

describe('safetensors header', () => {
  it('gives absolute offsets, shapes and metadata', () => {
    const header = parse(container(`{"__metadata__":{"format":"pt"},${item('b', 2, 4)},${item('a', 1, 0)}}  `, 12));
    assert.deepEqual([...header.metadata], [['format', 'pt']]);
    assert.deepEqual(
      header.entries.map((entry) => entry.name),
      ['b', 'a'],
    );
    const begin = header.dataBegin;
    assert.deepEqual(
      { ...header.entries[0] },
      { name: 'b', dtype: 'F32', shape: [2], file: 'model.safetensors', begin: begin + 4, end: begin + 12 },
    );
  });

  it('takes scalars, tensors without elements and an empty file', () => {
    const text = `{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"z":{"dtype":"F32","shape":[3,0,9007199254740991],"data_offsets":[4,4]}}`;
    assert.deepEqual(
      parse(container(text, 4)).entries.map((entry) => entry.end - entry.begin),
      [4, 0],
    );
    assert.equal(parse(container('{}', 0)).entries.length, 0);
  });

  it('takes offsets beyond 4 GiB', () => {
    const big = 6 * 2 ** 30;
    const text = `{"a":{"dtype":"U8","shape":[${big}],"data_offsets":[0,${big}]},"b":{"dtype":"F32","shape":[1],"data_offsets":[${big},${big + 4}]}}`;
    const head = container(text, 0);
    const { entries } = parseHeader(head, head.length + big + 4, 'big');
    assert.equal(entries[1]?.begin, head.length + big);
  });

  it('takes the packed types where they end on a byte', () => {
    assert.equal(tensorBytes('F4', [2, 3]), 3);
    assert.equal(tensorBytes('F4', [3]), undefined);
    assert.equal(tensorBytes('F6_E2M3', [4]), 3);
  });

  it('counts elements up to 2^53', () => {
    assert.equal(elementsOf([]), 1);
    assert.equal(elementsOf([2 ** 32, 2 ** 32, 0]), 0);
    assert.equal(elementsOf([2 ** 32, 2 ** 32]), undefined);
  });

  it('takes the name __proto__ as any other', () => {
    const { entries } = parse(container(`{${item('__proto__', 1, 0)}}`, 4));
    assert.equal(entries[0]?.name, '__proto__');
    assert.equal(({} as Record<string, unknown>).dtype, undefined);
  });

  const malformed: [string, Uint8Array, RegExp][] = [
    ['zero bytes', new Uint8Array(0), /at least 8 bytes/],
    ['seven bytes', new Uint8Array(7), /at least 8 bytes/],
    ['a header longer than the file', container('{}', 0, 3), /ends inside/],
    ['a header over the limit', container('{}', 0, maximumHeaderBytes + 1), /at most 100000000/],
    ['a header length of 2^64 - 1', container('{}', 0, 2n ** 64n - 1n), /at most 100000000/],
    ['no header', container('', 0), /starts with/],
    ['a header that is a list', container('[]', 0), /starts with/],
    ['a blank before the header', container(' {}', 0), /starts with/],
    ['a byte order mark', container('\uFEFF{}', 0), /starts with/],
    ['bad UTF-8', container(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d), 0), /UTF-8/],
    ['half a JSON text', container('{"a":', 0), /JSON/],
    ['NaN', container(tensor('"dtype":"F32","shape":[NaN],"data_offsets":[0,4]'), 4), /JSON/],
    ['zero bytes after the JSON', container('{}\0\0', 0), /JSON/],
    ['a name twice', container(`{${item('a', 1, 0)},${item('a', 1, 4)}}`, 8), /twice/],
    [
      'a name twice, once escaped',
      container(`{${item('a', 1, 0)},${item('a', 1, 4).replace('"a"', '"\\u0061"')}}`, 8),
      /twice/,
    ],
    ['a field twice', container(tensor('"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]'), 4), /twice/],
    ['deep nesting', container(`{"a":${'['.repeat(200)}${']'.repeat(200)}}`, 0), /levels/],
    ['metadata that is no object', container('{"__metadata__":[]}', 0), /__metadata__/],
    ['metadata that is no string', container('{"__metadata__":{"a":1}}', 0), /a string/],
    ['a tensor that is null', container('{"a":null}', 0), /an object/],
    ['an unknown dtype', container(tensor('"dtype":"F33","shape":[1],"data_offsets":[0,4]'), 4), /dtype/],
    [
      'a dtype from Object.prototype',
      container(tensor('"dtype":"constructor","shape":[1],"data_offsets":[0,4]'), 4),
      /dtype/,
    ],
    ['no dtype', container(tensor('"shape":[1],"data_offsets":[0,4]'), 4), /dtype/],
    ['no shape', container(tensor('"dtype":"F32","data_offsets":[0,4]'), 4), /shape/],
    ['a negative size', container(tensor('"dtype":"F32","shape":[-1],"data_offsets":[0,4]'), 4), /shape/],
    ['minus zero', container(tensor('"dtype":"F32","shape":[-0],"data_offsets":[0,0]'), 0), /shape/],
    ['half a size', container(tensor('"dtype":"F32","shape":[0.5],"data_offsets":[0,2]'), 2), /shape/],
    ['a size as text', container(tensor('"dtype":"F32","shape":["1"],"data_offsets":[0,4]'), 4), /shape/],
    [
      'a size beyond 2^53',
      container(tensor('"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,4]'), 4),
      /shape/,
    ],
    ['an infinite size', container(tensor('"dtype":"F32","shape":[1e999],"data_offsets":[0,4]'), 4), /shape/],
    [
      'a product that overflows',
      container(tensor('"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]'), 0),
      /bytes for/,
    ],
    ['one offset', container(tensor('"dtype":"F32","shape":[1],"data_offsets":[0]'), 4), /data_offsets/],
    ['three offsets', container(tensor('"dtype":"F32","shape":[1],"data_offsets":[0,4,8]'), 4), /data_offsets/],
    ['a negative offset', container(tensor('"dtype":"F32","shape":[1],"data_offsets":[-4,0]'), 4), /data_offsets/],
    ['offsets the wrong way round', container(tensor('"dtype":"F32","shape":[1],"data_offsets":[4,0]'), 4), /inside/],
    ['data beyond the end', container(tensor('"dtype":"F32","shape":[2],"data_offsets":[0,8]'), 4), /inside/],
    [
      'a shape that does not fit its bytes',
      container(tensor('"dtype":"F32","shape":[2],"data_offsets":[0,4]'), 4),
      /8 bytes/,
    ],
    ['half a byte', container(tensor('"dtype":"F4","shape":[1],"data_offsets":[0,1]'), 1), /bytes for/],
    ['an overlap', container(`{${item('a', 2, 0)},${item('b', 1, 4)}}`, 8), /an overlap at/],
    ['an empty tensor inside another', container(`{${item('a', 2, 0)},${item('b', 0, 4)}}`, 8), /an overlap at/],
    ['a hole', container(`{${item('a', 1, 0)},${item('b', 1, 8)}}`, 12), /a hole at/],
    ['a hole at the start', container(`{${item('a', 1, 4)}}`, 8), /a hole at/],
    ['bytes after the last tensor', container(`{${item('a', 1, 0)}}`, 5), /end of the file/],
    ['data without tensors', container('{}', 1), /end of the file/],
  ];
  for (const [what, file, words] of malformed) {
    it(`refuses ${what}`, () => assert.throws(() => parse(file), moeError('CHECKPOINT_MALFORMED', words)));
  }

  it('refuses every truncation of a valid file', () => {
    const file = container(`{"__metadata__":{"a":"b"},${item('a', 1, 0)},${item('b', 3, 4)}}`, 16);
    parse(file);
    for (let length = 0; length < file.length; length++) {
      assert.throws(() => parse(file.slice(0, length)), moeError('CHECKPOINT_MALFORMED'), `${length}`);
    }
  });

  it('reads headers longer than the first read from disk', () =>
    inFolder(async (folder) => {
      const items = Array.from({ length: 2000 }, (_, index) =>
        item(`layers.${index}.${'weight'.repeat(8)}`, 1, 4 * index),
      );
      const file = join(folder, 'model.safetensors');
      const bytes = container(`{${items.join()}}`, 8000);
      await writeFile(file, bytes);
      const header = await readHeader(file, bytes.length);
      assert.equal(header.entries.length, 2000);
      assert.equal(header.entries[1999]?.end, bytes.length);
      await assert.rejects(readHeader(file, bytes.length + 1), moeError('CHECKPOINT_MALFORMED'));
    }));

  it('answers random damage with a MoeError or a consistent header', () => {
    const valid = container(
      `{"__metadata__":{"a":"b"},${item('a', 2, 0)},${item('b', 3, 8)},${item('\\u0063', 0, 20)}}`,
      20,
    );
    const damage = fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(damage, fc.nat(valid.length), (flips, shorter) => {
        const file = valid.slice(0, shorter % 5 === 0 ? valid.length - shorter : valid.length);
        for (const [at, value] of flips) if (at < file.length) file[at] = value;
        try {
          const { entries } = parse(file);
          for (const entry of entries) {
            assert.equal(tensorBytes(entry.dtype, entry.shape), entry.end - entry.begin);
            assert.ok(entry.begin >= 8 && entry.end <= file.length);
          }
        } catch (error) {
          if (!(error instanceof MoeError) || error.code !== 'CHECKPOINT_MALFORMED') throw error;
        }
      }),
      { numRuns: 3000 },
    );
  });
});
