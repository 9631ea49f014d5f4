import { strict as assert } from 'node:assert';
import { execFileSync, spawn } from 'node:child_process';
import filePromises, { chmod, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { OutputFolder } from '../../lib/checkpoint/folder.ts';
import { inFolder, moeError } from './support.ts';

const marker = '.node-moe-partial';

async function plant(partial: string, owner: unknown): Promise<void> {
  await mkdir(partial);
  await writeFile(join(partial, marker), typeof owner === 'string' ? owner : JSON.stringify(owner));
  await writeFile(join(partial, 'leftover'), '');
}

describe('OutputFolder', () => {
  it('appears at commit, complete and without traces', () =>
    inFolder(async (base) => {
      const folder = await OutputFolder.create(join(base, 'deep', 'out'));
      await folder.writeJson('config.json', { a: 1 });
      assert.deepEqual(await readdir(join(base, 'deep')), ['out.partial']);
      assert.equal(folder.file('x'), join(base, 'deep', 'out.partial', 'x'));
      await folder.commit();
      assert.deepEqual(await readdir(join(base, 'deep')), ['out']);
      assert.deepEqual(await readdir(folder.path), ['config.json']);
      assert.deepEqual(JSON.parse(await readFile(join(folder.path, 'config.json'), 'utf8')), { a: 1 });
      assert.throws(() => folder.file('y'), moeError('DISPOSED'));
      await assert.rejects(folder.commit(), moeError('DISPOSED'));
      await folder.discard();
      assert.deepEqual(await readdir(folder.path), ['config.json']);
    }));

  it('leaves nothing when discarded', () =>
    inFolder(async (base) => {
      const folder = await OutputFolder.create(join(base, 'out'));
      await folder.writeText('a.txt', 'a');
      await folder[Symbol.asyncDispose]();
      await folder.discard();
      assert.deepEqual(await readdir(base), []);
      await assert.rejects(folder.writeJson('b', 1), moeError('DISPOSED'));
    }));

  it('refuses an existing folder without force and replaces it with', () =>
    inFolder(async (base) => {
      const path = join(base, 'out');
      await mkdir(path);
      await writeFile(join(path, 'config.json'), 'old');
      await assert.rejects(OutputFolder.create(path), moeError('FILE_EXISTS', /force/));
      const folder = await OutputFolder.create(path, { force: true });
      await folder.writeText('config.json', 'new');
      assert.equal(await readFile(join(path, 'config.json'), 'utf8'), 'old');
      await folder.commit();
      assert.equal(await readFile(join(path, 'config.json'), 'utf8'), 'new');
      assert.deepEqual(await readdir(base), ['out']);
    }));

  it('never replaces a file or a folder that is no model', () =>
    inFolder(async (base) => {
      await mkdir(join(base, 'home'));
      await writeFile(join(base, 'home', 'letters'), '');
      await assert.rejects(
        OutputFolder.create(join(base, 'home'), { force: true }),
        moeError('FILE_EXISTS', /config\.json/),
      );
      await assert.rejects(
        OutputFolder.create(join(base, 'home', 'letters'), { force: true }),
        moeError('FILE_EXISTS', /a file/),
      );
      await assert.rejects(
        OutputFolder.create(join(base, 'home', 'letters', 'out')),
        moeError('FILE_UNWRITABLE', /ENOTDIR/),
      );
      for (const bad of ['', '/', 'a\0', undefined, 3]) {
        await assert.rejects(OutputFolder.create(bad as string), moeError('INVALID_ARGUMENT', /path/));
      }
      await mkdir(join(base, 'empty'));
      await (await OutputFolder.create(join(base, 'empty'), { force: true })).commit();
      assert.deepEqual((await readdir(base)).sort(), ['empty', 'home']);
    }));

  it('does not overwrite a folder that appears meanwhile', () =>
    inFolder(async (base) => {
      const folder = await OutputFolder.create(join(base, 'out'));
      await mkdir(join(base, 'out'));
      await writeFile(join(base, 'out', 'theirs'), '');
      await assert.rejects(folder.commit(), moeError('FILE_EXISTS'));
      await folder.discard();
      assert.deepEqual(await readdir(join(base, 'out')), ['theirs']);
      assert.deepEqual(await readdir(base), ['out']);
    }));

  it('puts the old folder back when the rename fails', () =>
    inFolder(async (base) => {
      const path = join(base, 'out');
      await mkdir(path);
      await writeFile(join(path, 'config.json'), 'old');
      const folder = await OutputFolder.create(path, { force: true });
      const real = filePromises.rename;
      const renames: string[] = [];
      filePromises.rename = async (from, to) => {
        renames.push(String(from));
        if (renames.length === 2) throw Object.assign(new Error('EIO'), { code: 'EIO' });
        return real(from, to);
      };
      syncBuiltinESMExports();
      try {
        await assert.rejects(folder.commit(), moeError('FILE_UNWRITABLE', /EIO/));
      } finally {
        filePromises.rename = real;
        syncBuiltinESMExports();
      }
      assert.equal(renames.length, 3);
      assert.deepEqual((await readdir(base)).sort(), ['out', 'out.partial']);
      await folder.discard();
      assert.equal(await readFile(join(path, 'config.json'), 'utf8'), 'old');
      assert.deepEqual(await readdir(base), ['out']);
    }));

  it('replaces a link without touching what it points to', () =>
    inFolder(async (base) => {
      await mkdir(join(base, 'real'));
      await writeFile(join(base, 'real', 'config.json'), 'old');
      await symlink('real', join(base, 'out'));
      const folder = await OutputFolder.create(join(base, 'out'), { force: true });
      await folder.writeText('config.json', 'new');
      await folder.commit();
      assert.equal(await readFile(join(base, 'real', 'config.json'), 'utf8'), 'old');
      assert.equal(await readFile(join(base, 'out', 'config.json'), 'utf8'), 'new');
    }));

  it('cleans up what a stopped run left', () =>
    inFolder(async (base) => {
      const path = join(base, 'out');
      const child = spawn(process.execPath, ['-e', '']);
      await new Promise((resolve) => child.once('exit', resolve));
      await plant(`${path}.partial`, { host: hostname(), pid: child.pid, start: '123' });
      await (await OutputFolder.create(path)).discard();
      // The number is taken again, by a process that started at another time.
      await plant(`${path}.partial`, { host: hostname(), pid: process.pid, start: '1' });
      await (await OutputFolder.create(path)).discard();
      await mkdir(`${path}.partial`);
      await (await OutputFolder.create(path)).discard();
      assert.deepEqual(await readdir(base), []);
    }));

  it('keeps its hands off every other partial folder', () =>
    inFolder(async (base) => {
      const path = join(base, 'out');
      const running = await OutputFolder.create(path);
      await assert.rejects(OutputFolder.create(path), moeError('FILE_EXISTS', /which is running/));
      await running.discard();
      const strange: unknown[] = [
        { host: 'elsewhere', pid: 1, start: '1' },
        'no JSON',
        'null',
        { host: 1 },
        { host: hostname(), pid: '1/../2', start: '' },
      ];
      for (const owner of strange) {
        await plant(`${path}.partial`, owner);
        await assert.rejects(OutputFolder.create(path), moeError('FILE_EXISTS'), JSON.stringify(owner));
        assert.ok((await readdir(`${path}.partial`)).includes('leftover'));
        execFileSync('rm', ['-r', `${path}.partial`]);
      }
    }));

  it('takes plain file names only', () =>
    inFolder(async (base) => {
      const folder = await OutputFolder.create(join(base, 'out'));
      for (const name of ['', '.', '..', '../a', 'a/b', 'a\\b', 'a\0', marker, 3]) {
        assert.throws(() => folder.file(name as string), moeError('INVALID_ARGUMENT', /name/));
      }
      await mkdir(join(folder.partial, 'taken'));
      await assert.rejects(folder.writeText('taken', 'a'), moeError('FILE_UNWRITABLE', /EISDIR/));
    }));

  it('says FILE_UNWRITABLE where the system makes no folders', async () => {
    await assert.rejects(OutputFolder.create('/proc/none/out'), moeError('FILE_UNWRITABLE', /ENOENT/));
  });

  it('says FILE_UNWRITABLE where it may not write', function () {
    if (process.getuid?.() === 0) this.skip();
    return inFolder(async (base) => {
      await chmod(base, 0o500);
      await assert.rejects(OutputFolder.create(join(base, 'out')), moeError('FILE_UNWRITABLE', /EACCES/));
      await chmod(base, 0o700);
    });
  });
});
