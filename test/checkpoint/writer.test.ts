import { strict as assert } from 'node:assert';
import { lstat, mkdir, open, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { parseHeader, type SafetensorsDtype, tensorBytes } from '../../lib/checkpoint/safetensors.ts';
import { SafetensorsWriter, type WriterEntry } from '../../lib/checkpoint/writer.ts';
import { inFolder, moeError } from './support.ts';

const dtypes: SafetensorsDtype[] = ['F32', 'F16', 'BF16', 'F64', 'I8', 'U8', 'I64', 'BOOL', 'F8_E4M3'];

describe('SafetensorsWriter', () => {
  it('writes what the parser reads, for any tensors in any order', () =>
    inFolder(async (folder) => {
      const shape = fc.array(fc.nat(5), { maxLength: 3 });
      const fields = fc.record({
        name: fc.string({ unit: 'grapheme', maxLength: 12 }),
        dtype: fc.constantFrom(...dtypes),
        shape,
      });
      const entries = fc.uniqueArray(fields, { selector: (entry) => entry.name, maxLength: 8 });
      const metadata = fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 });
      await fc.assert(
        fc.asyncProperty(entries, metadata, fc.integer(), async (list, notes, seed) => {
          const path = join(folder, 'a.safetensors');
          const writer = await SafetensorsWriter.create(path, list, notes);
          const data = new Map<string, Uint8Array>();
          for (const { name, dtype, shape: sizes } of list) {
            data.set(
              name,
              Uint8Array.from(
                { length: tensorBytes(dtype, sizes) as number },
                (_, index) => (seed + index * 7 + name.length) & 255,
              ),
            );
          }
          await Promise.all([...data].sort(() => seed % 2 || 1).map(([name, bytes]) => writer.write(name, bytes)));
          const total = await writer.finish();
          const file = await readFile(path);
          assert.equal(file.length, total);
          assert.equal(writer.bytes, total);
          const header = parseHeader(file, file.length, path);
          assert.equal(header.dataBegin % 8, 0);
          assert.deepEqual(Object.fromEntries(header.metadata), { ...notes });
          assert.equal(header.entries.length, list.length);
          for (const entry of header.entries) {
            assert.deepEqual(new Uint8Array(file.subarray(entry.begin, entry.end)), data.get(entry.name));
            const width = (tensorBytes(entry.dtype, [1]) as number) || 1;
            assert.equal(entry.begin % width, 0, 'aligned');
          }
        }),
        { numRuns: 150 },
      );
    }));

  const entry: WriterEntry = { name: 'a', dtype: 'F32', shape: [2] };

  it('appears only when it is finished', () =>
    inFolder(async (folder) => {
      const path = join(folder, 'a.safetensors');
      const writer = await SafetensorsWriter.create(path, [entry]);
      await assert.rejects(writer.finish(), moeError('INVALID_ARGUMENT', /a: expected every declared tensor/));
      await writer.write('a', Float32Array.of(1, 2));
      assert.deepEqual(await readdir(folder), ['a.safetensors.partial']);
      await writer.finish();
      assert.deepEqual(await readdir(folder), ['a.safetensors']);
      await assert.rejects(writer.write('a', new Float32Array(2)), moeError('DISPOSED'));
      await assert.rejects(writer.finish(), moeError('DISPOSED'));
    }));

  it('takes each declared tensor once, with its bytes', () =>
    inFolder(async (folder) => {
      const writer = await SafetensorsWriter.create(join(folder, 'a'), [entry]);
      await assert.rejects(writer.write('b', new Uint8Array(8)), moeError('CHECKPOINT_TENSOR_UNKNOWN', /b/));
      await assert.rejects(writer.write('a', new Uint8Array(7)), moeError('INVALID_ARGUMENT', /8 bytes, got 7/));
      await assert.rejects(
        writer.write('a', new Uint8Array(new SharedArrayBuffer(8))),
        moeError('INVALID_ARGUMENT', /shared/),
      );
      const first = writer.write('a', new Uint8Array(8));
      await assert.rejects(writer.write('a', new Uint8Array(8)), moeError('INVALID_ARGUMENT', /second/));
      await first;
      await assert.rejects(writer.write('a', new Uint8Array(8)), moeError('INVALID_ARGUMENT', /second/));
      await writer.discard();
      assert.deepEqual(await readdir(folder), []);
    }));

  it('refuses entries that make no file', () =>
    inFolder(async (folder) => {
      const bad: WriterEntry[][] = [
        [entry, entry],
        [{ ...entry, name: '__metadata__' }],
        [{ ...entry, name: '\uD800' }],
        [{ ...entry, shape: [-1] }],
        [{ ...entry, shape: [Number.NaN] }],
        [{ ...entry, shape: [2 ** 40, 2 ** 40] }],
        [{ ...entry, dtype: 'F4', shape: [1] }],
        [{ ...entry, dtype: 'toString' as SafetensorsDtype }],
      ];
      for (const entries of bad) {
        await assert.rejects(SafetensorsWriter.create(join(folder, 'a'), entries), moeError('INVALID_ARGUMENT'));
      }
      const notes = { a: 1 } as unknown as Record<string, string>;
      await assert.rejects(
        SafetensorsWriter.create(join(folder, 'a'), [entry], notes),
        moeError('INVALID_ARGUMENT', /metadata/),
      );
      assert.deepEqual(await readdir(folder), []);
    }));

  it('replaces a leftover, and does not follow a link there', () =>
    inFolder(async (folder) => {
      await writeFile(join(folder, 'victim'), 'untouched');
      await symlink(join(folder, 'victim'), join(folder, 'a.partial'));
      const writer = await SafetensorsWriter.create(join(folder, 'a'), []);
      await writer.finish();
      assert.equal(await readFile(join(folder, 'victim'), 'utf8'), 'untouched');
      assert.ok((await lstat(join(folder, 'a'))).isFile());
    }));

  it('turns system errors into FILE_UNWRITABLE and leaves nothing', () =>
    inFolder(async (folder) => {
      await assert.rejects(
        SafetensorsWriter.create(join(folder, 'no/a'), [entry]),
        moeError('FILE_UNWRITABLE', /ENOENT/),
      );
      await mkdir(join(folder, 'taken'));
      const writer = await SafetensorsWriter.create(join(folder, 'taken'), [entry]);
      await writer.write('a', new Uint8Array(8));
      await assert.rejects(writer.finish(), moeError('FILE_UNWRITABLE', /EISDIR|ENOTEMPTY/));
      assert.deepEqual(await readdir(folder), ['taken']);
      await assert.rejects(writer.write('a', new Uint8Array(8)), moeError('DISPOSED'));
    }));

  it('removes the partial file when the disk is full', () =>
    inFolder(async (folder) => {
      const probe = await open(join(folder, 'probe'), 'w');
      const prototype = Object.getPrototypeOf(probe) as { write: unknown };
      await probe.close();
      const writer = await SafetensorsWriter.create(join(folder, 'a'), [entry]);
      const real = prototype.write;
      prototype.write = () => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' }));
      try {
        await assert.rejects(
          writer.write('a', new Uint8Array(8)),
          moeError('FILE_UNWRITABLE', /a: expected .*space, got ENOSPC/),
        );
        assert.deepEqual(await readdir(folder), ['probe']);
        await assert.rejects(
          SafetensorsWriter.create(join(folder, 'b'), [entry]),
          moeError('FILE_UNWRITABLE', /ENOSPC/),
        );
        assert.deepEqual(await readdir(folder), ['probe']);
      } finally {
        prototype.write = real;
      }
      await assert.rejects(writer.finish(), moeError('DISPOSED'));
    }));
});
