import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { cp, mkdir, open, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { SafetensorsWriter } from '../../lib/checkpoint/writer.ts';
import { container, inFolder, item, moeError, shardedModel, tinyModel, writeModel } from './support.ts';

const one = container(`{${item('a', 1, 0)}}`, 4);
const two = container(`{${item('b', 1, 0)}}`, 4);

function index(map: unknown): string {
  return JSON.stringify({ metadata: { total_size: 8 }, weight_map: map });
}

describe('Checkpoint', () => {
  it('opens shards and reads each tensor from its own', async () => {
    const checkpoint = await Checkpoint.open(shardedModel);
    const listed = JSON.parse(await readFile(join(shardedModel, 'model.safetensors.index.json'), 'utf8')) as {
      metadata: { total_size: number };
      weight_map: Record<string, string>;
    };
    assert.deepEqual(new Set(checkpoint.tensors.keys()), new Set(Object.keys(listed.weight_map)));
    let data = 0;
    for (const [name, entry] of checkpoint.tensors) {
      assert.equal(entry.file, join(shardedModel, listed.weight_map[name] as string));
      const bytes = await readFile(entry.file);
      const stored = await checkpoint.read(name);
      assert.deepEqual(Buffer.from(stored.buffer), bytes.subarray(entry.begin, entry.end), name);
      data += entry.end - entry.begin;
    }
    assert.equal(data, listed.metadata.total_size);
    assert.ok(checkpoint.bytes > data);
    checkpoint.close();
  });

  it('opens a single file with its config', async () => {
    const checkpoint = await Checkpoint.open(tinyModel);
    assert.equal(checkpoint.config.model_type, 'qwen3_moe');
    const name = 'model.layers.0.mlp.gate.weight';
    assert.ok(checkpoint.has(name));
    assert.deepEqual(checkpoint.entry(name).shape, [16, 128]);
    const bits = (await checkpoint.read(name)) as Uint16Array;
    const values = await checkpoint.readF32(name);
    assert.equal(values.length, 16 * 128);
    const expected = new Float32Array(Uint32Array.from(bits, (bit) => bit << 16).buffer);
    assert.deepEqual(values, expected);
    checkpoint.close();
  });

  it('reads every dtype, empty tensors and odd offsets', () =>
    inFolder(async (folder) => {
      await writeFile(join(folder, 'config.json'), '{}');
      const values = {
        F64: Float64Array.of(1.5, -2),
        F32: Float32Array.of(0.25, Infinity, -0),
        F16: Uint16Array.of(0x3c00, 0xc000, 0x0001),
        BF16: Uint16Array.of(0x3f80, 0xc000),
        I64: BigInt64Array.of(-1n, 2n ** 60n),
        U64: BigUint64Array.of(2n ** 64n - 1n),
        I32: Int32Array.of(-7),
        U32: Uint32Array.of(2 ** 32 - 1),
        I16: Int16Array.of(-2),
        U16: Uint16Array.of(65535),
        I8: Int8Array.of(-1, 2, 3),
        U8: Uint8Array.of(255),
        BOOL: Uint8Array.of(1, 0, 1),
      };
      const entries = Object.entries(values).map(([dtype, data]) => ({
        name: dtype,
        dtype: dtype as 'U8',
        shape: [data.length],
      }));
      const writer = await SafetensorsWriter.create(join(folder, 'model.safetensors'), [
        ...entries,
        { name: 'empty', dtype: 'F32', shape: [0, 5] },
      ]);
      for (const [name, data] of Object.entries(values)) await writer.write(name, data);
      await writer.write('empty', new Float32Array(0));
      await writer.finish();
      const checkpoint = await Checkpoint.open(folder);
      for (const [name, data] of Object.entries(values)) assert.deepEqual(await checkpoint.read(name), data, name);
      assert.deepEqual(await checkpoint.read('empty'), new Float32Array(0));
      assert.deepEqual(await checkpoint.readF32('F16'), Float32Array.of(1, -2, 2 ** -24));
      assert.deepEqual(await checkpoint.readF32('BF16'), Float32Array.of(1, -2));
      assert.deepEqual(await checkpoint.readF32('F64'), Float32Array.of(1.5, -2));
      await assert.rejects(checkpoint.readF32('I8'), moeError('DTYPE_MISMATCH', /I8: expected F32/));
      checkpoint.close();

      const head =
        '{"pad":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"odd":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}}';
      const file = container(head, 7);
      new DataView(file.buffer).setFloat32(file.length - 4, 42, true);
      await writeFile(join(folder, 'model.safetensors'), file);
      const odd = await Checkpoint.open(folder);
      assert.deepEqual(await odd.readF32('odd'), Float32Array.of(42));
      odd.close();
    }));

  it('reads tensors longer than one copy', () =>
    inFolder(async (folder) => {
      await writeFile(join(folder, 'config.json'), '{}');
      const data = new Uint8Array(40 * 2 ** 20 + 5);
      for (let at = 0; at < data.length; at += 4093) data[at] = at & 255;
      const writer = await SafetensorsWriter.create(join(folder, 'model.safetensors'), [
        { name: 'a', dtype: 'U8', shape: [data.length] },
      ]);
      await writer.write('a', data);
      await writer.finish();
      const checkpoint = await Checkpoint.open(folder);
      assert.equal(Buffer.compare((await checkpoint.read('a')) as Uint8Array, data), 0);
      const late = checkpoint.read('a');
      checkpoint.close();
      await assert.rejects(late, moeError('DISPOSED'));
    }));

  it('reads beyond 4 GiB of a file', () =>
    inFolder(async (folder) => {
      const pad = 5 * 2 ** 30;
      const head = container(
        `{"pad":{"dtype":"U8","shape":[${pad}],"data_offsets":[0,${pad}]},"a":{"dtype":"I32","shape":[2],"data_offsets":[${pad},${pad + 8}]}}`,
        0,
      );
      await writeModel(folder, { 'model.safetensors': head });
      const file = await open(join(folder, 'model.safetensors'), 'r+');
      // Sparse: only the ends take room on disk.
      await file.write(new Uint8Array(Int32Array.of(7, -9).buffer), 0, 8, head.length + pad);
      await file.close();
      const checkpoint = await Checkpoint.open(folder);
      assert.equal(checkpoint.bytes, head.length + pad + 8);
      assert.deepEqual(await checkpoint.read('a'), Int32Array.of(7, -9));
      checkpoint.close();
    }));

  it('names a tensor that is not there', async () => {
    const checkpoint = await Checkpoint.open(tinyModel);
    for (const name of ['nothing', 'constructor', '__proto__']) {
      assert.equal(checkpoint.has(name), false);
      assert.throws(() => checkpoint.entry(name), moeError('CHECKPOINT_TENSOR_MISSING', new RegExp(name)));
      await assert.rejects(checkpoint.readF32(name), moeError('CHECKPOINT_TENSOR_MISSING'));
    }
    checkpoint.close();
  });

  it('answers DISPOSED after close', async () => {
    const checkpoint = await Checkpoint.open(tinyModel);
    checkpoint.close();
    checkpoint.close();
    await checkpoint[Symbol.asyncDispose]();
    const name = 'model.norm.weight';
    await assert.rejects(checkpoint.read(name), moeError('DISPOSED'));
    await assert.rejects(checkpoint.readF32(name), moeError('DISPOSED'));
    await assert.rejects(checkpoint.tokenizer(), moeError('DISPOSED'));
    assert.throws(() => checkpoint.bytesOf(name), moeError('DISPOSED'));
  });

  it('notices a file that changed after open', () =>
    inFolder(async (folder) => {
      await writeModel(folder, { 'model.safetensors': one });
      const checkpoint = await Checkpoint.open(folder);
      await truncate(join(folder, 'model.safetensors'), one.length - 1);
      await assert.rejects(checkpoint.read('a'), moeError('CHECKPOINT_MALFORMED', /as when it was opened/));
      checkpoint.close();
    }));

  it('stops at an aborted signal', async () => {
    const reason = new Error('enough');
    await assert.rejects(Checkpoint.open(tinyModel, { signal: AbortSignal.abort(reason) }), reason);
  });

  it('prefers the single file, as transformers does', () =>
    inFolder(async (folder) => {
      await writeModel(folder, { 'model.safetensors': one, 'model.safetensors.index.json': 'broken' });
      assert.deepEqual([...(await Checkpoint.open(folder)).tensors.keys()], ['a']);
    }));

  it('follows links to regular files, as in a download cache', () =>
    inFolder(async (folder) => {
      const snapshot = join(folder, 'snapshot');
      await mkdir(snapshot);
      await writeModel(folder, { blob: one });
      for (const [name, target] of [
        ['model.safetensors', 'blob'],
        ['config.json', 'config.json'],
      ] as const) {
        await symlink(join('..', target), join(snapshot, name));
      }
      assert.deepEqual([...(await Checkpoint.open(snapshot)).tensors.keys()], ['a']);
    }));

  const shards = { 'a.safetensors': one, 'b.safetensors': two };
  const map = { a: 'a.safetensors', b: 'b.safetensors' };
  it('takes an index that is right', () =>
    inFolder(async (folder) => {
      await writeModel(folder, { ...shards, 'model.safetensors.index.json': index(map) });
      const checkpoint = await Checkpoint.open(folder);
      assert.deepEqual([...checkpoint.tensors.keys()], ['a', 'b']);
      assert.equal(checkpoint.bytes, one.length + two.length);
    }));

  const badIndexes: [string, string, RegExp][] = [
    ['no JSON', '{', /JSON/],
    ['a list', '[]', /JSON object/],
    ['no weight_map', '{}', /weight_map/],
    ['a weight_map that is a list', index([]), /weight_map/],
    ['an empty weight_map', index({}), /at least one tensor/],
    ['a number for a shard', index({ ...map, a: 1 }), /plain name/],
    ['a shard above the folder', index({ ...map, a: '../a.safetensors' }), /plain name/],
    ['a shard below the folder', index({ ...map, a: 'x/a.safetensors' }), /plain name/],
    ['an absolute shard', index({ ...map, a: '/a.safetensors' }), /plain name/],
    ['a shard with a backslash', index({ ...map, a: 'x\\a.safetensors' }), /plain name/],
    ['a drive letter', index({ ...map, a: 'C:a.safetensors' }), /plain name/],
    ['a zero byte', index({ ...map, a: 'a\0.safetensors' }), /plain name/],
    ['an endless name', index({ ...map, a: `${'a'.repeat(300)}.safetensors` }), /plain name/],
    ['an index that names itself', index({ ...map, a: 'model.safetensors.index.json' }), /plain name/],
    ['a tensor twice', '{"weight_map":{"a":"a.safetensors","a":"b.safetensors"}}', /twice/],
    ['a tensor in the wrong shard', index({ a: 'b.safetensors', b: 'a.safetensors' }), /only tensors that/],
    ['a tensor that its shard lacks', index({ ...map, c: 'a.safetensors' }), /c: expected every tensor/],
    ['a shard with a tensor not listed', index({ b: 'b.safetensors', c: 'a.safetensors' }), /a: expected only/],
  ];
  for (const [what, text, words] of badIndexes) {
    it(`refuses ${what} in the index`, () =>
      inFolder(async (folder) => {
        await writeModel(folder, { ...shards, 'model.safetensors.index.json': text });
        await assert.rejects(Checkpoint.open(folder), moeError('CHECKPOINT_MALFORMED', words));
      }));
  }

  it('names a shard that is missing or loops', () =>
    inFolder(async (folder) => {
      await writeModel(folder, { ...shards, 'model.safetensors.index.json': index(map) });
      await rm(join(folder, 'b.safetensors'));
      await assert.rejects(Checkpoint.open(folder), moeError('FILE_UNREADABLE', /b\.safetensors/));
      await symlink('b.safetensors', join(folder, 'b.safetensors'));
      await assert.rejects(Checkpoint.open(folder), moeError('FILE_UNREADABLE', /ELOOP/));
    }));

  it('refuses folders without the files, and other things in their place', () =>
    inFolder(async (folder) => {
      for (const bad of ['', 'a\0b', undefined, 3]) {
        await assert.rejects(Checkpoint.open(bad as string), moeError('INVALID_ARGUMENT', /folder/));
      }
      await assert.rejects(Checkpoint.open(join(folder, 'none')), moeError('FILE_UNREADABLE', /config\.json/));
      await writeModel(folder, {});
      await assert.rejects(Checkpoint.open(folder), moeError('FILE_UNREADABLE', /neither/));
      await mkdir(join(folder, 'model.safetensors'));
      await assert.rejects(Checkpoint.open(folder), moeError('FILE_UNREADABLE', /regular file/));
      await rename(join(folder, 'model.safetensors'), join(folder, 'aside'));
      execFileSync('mkfifo', [join(folder, 'model.safetensors')]);
      await assert.rejects(Checkpoint.open(folder), moeError('FILE_UNREADABLE', /regular file/));
    }));

  it('refuses a broken config.json', () =>
    inFolder(async (folder) => {
      const path = join(folder, 'config.json');
      await cp(join(tinyModel, 'model.safetensors'), join(folder, 'model.safetensors'));
      for (const text of [
        '',
        '[]',
        'null',
        '3',
        '{"a":NaN}',
        '{"a":1,"a":2}',
        '{"a":',
        Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d),
      ]) {
        await writeFile(path, text);
        await assert.rejects(Checkpoint.open(folder), moeError('CONFIG_INVALID', /config\.json/), String(text));
      }
      await truncate(path, 20_000_000);
      await assert.rejects(Checkpoint.open(folder), moeError('FILE_UNREADABLE', /at most 10000000/));
    }));
});
