/**
 * Output folders that appear complete or not at all: everything is written in FOLDER.partial, which takes the name FOLDER at the end.
 *
 * The partial folder holds a marker with its owner (host, process, start of the process). One that a stopped process left is
 * removed; one of a running process, of another host or of somebody else's making is left alone.
 */
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { show } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { unreadable, unwritable } from './files.ts';
import { syncFolder } from './writer.ts';

const markerName = '.node-moe-partial';

/** A folder in the making. */
export class OutputFolder {
  /** Absolute path of the folder that `commit` makes. */
  readonly path: string;
  /** Absolute path of the folder to write into until then. */
  readonly partial: string;
  readonly #force: boolean;
  #state: 'open' | 'committed' | 'discarded' | 'kept' = 'open';
  /** Whether the partial folder is one that a stopped run left. */
  readonly resumed: boolean;

  private constructor(path: string, force: boolean, resumed: boolean) {
    this.path = path;
    this.partial = `${path}.partial`;
    this.#force = force;
    this.resumed = resumed;
  }

  /**
   * Makes FOLDER.partial. An existing FOLDER is refused, or with `force` replaced by `commit`; only a folder that is empty or has a
   * config.json is ever replaced.
   *
   * @param options.resume goes on with what a stopped run left, where it left something
   *
   * Rejects with INVALID_ARGUMENT, FILE_EXISTS, FILE_UNREADABLE, FILE_UNWRITABLE.
   */
  static async create(path: string, options: { force?: boolean; resume?: boolean } = {}): Promise<OutputFolder> {
    if (typeof path !== 'string' || path === '' || path.includes('\0') || dirname(resolve(path)) === resolve(path)) {
      throw new MoeError('INVALID_ARGUMENT', {
        argument: 'path',
        expected: 'the path of a folder to make',
        received: show(path),
      });
    }
    const absolute = resolve(path);
    const left = await stoppedRun(`${absolute}.partial`);
    const folder = new OutputFolder(absolute, options.force === true, left && options.resume === true);
    await folder.#checkTarget();
    try {
      const mark = JSON.stringify(await owner(process.pid));
      if (folder.resumed) {
        await writeFile(join(folder.partial, markerName), mark);
        return folder;
      }
      if (left) await rm(folder.partial, { recursive: true });
      await makeParents(dirname(folder.path));
      await mkdir(folder.partial);
      await writeFile(join(folder.partial, markerName), mark, { flag: 'wx' });
    } catch (cause) {
      // Two processes may get here at once; mkdir lets one through.
      if ((cause as NodeJS.ErrnoException).code === 'EEXIST')
        throw existing(folder.partial, 'no other run that writes it', 'one');
      throw unwritable(folder.partial, cause);
    }
    return folder;
  }

  /** Path of a file of the folder while it is in the making. Throws INVALID_ARGUMENT for a name that is not a plain file name. */
  file(name: string): string {
    this.#check();
    if (
      typeof name !== 'string' ||
      name === '' ||
      name === '.' ||
      name === '..' ||
      /[/\\\0]/.test(name) ||
      name === markerName
    ) {
      throw new MoeError('INVALID_ARGUMENT', { argument: 'name', expected: 'a plain file name', received: show(name) });
    }
    return join(this.partial, name);
  }

  /** Writes a value as a JSON file and flushes it. Rejects with INVALID_ARGUMENT, DISPOSED, FILE_UNWRITABLE. */
  async writeJson(name: string, value: unknown): Promise<void> {
    await this.writeText(name, `${JSON.stringify(value, undefined, 2)}\n`);
  }

  /** Writes a text or bytes as a file and flushes it. Rejects with INVALID_ARGUMENT, DISPOSED, FILE_UNWRITABLE. */
  async writeText(name: string, text: string | Uint8Array): Promise<void> {
    const path = this.file(name);
    try {
      const handle = await open(path, 'w', 0o644);
      try {
        await handle.writeFile(text);
        await handle.sync();
      } finally {
        await handle.close();
      }
    } catch (cause) {
      throw unwritable(path, cause);
    }
  }

  /** As {@link writeText}, but the file has its old content until it has all of the new one. Rejects alike. */
  async replaceText(name: string, text: string): Promise<void> {
    await this.writeText(`${name}.partial`, text);
    try {
      await rename(this.file(`${name}.partial`), this.file(name));
      await syncFolder(this.partial);
    } catch (cause) {
      throw unwritable(this.file(name), cause);
    }
  }

  /** Removes a file of the folder in the making, where it is there. Rejects with FILE_UNWRITABLE. */
  async remove(name: string): Promise<void> {
    await rm(this.file(name), { force: true }).catch((cause) => {
      throw unwritable(this.file(name), cause);
    });
  }

  /**
   * Gives the folder its name. An old folder (`force`) is moved aside first, put back if that fails, and removed at the very end.
   *
   * Rejects with FILE_EXISTS (a folder appeared meanwhile), FILE_UNWRITABLE, DISPOSED; the partial folder is then still there
   * for another try or `discard`.
   */
  async commit(): Promise<void> {
    this.#check();
    const replaced = await this.#checkTarget();
    const aside = join(dirname(this.path), `.${basename(this.path)}.replaced-${process.pid}`);
    try {
      await syncFolder(this.partial);
      if (replaced) await rename(this.path, aside);
      try {
        await rename(this.partial, this.path);
      } catch (cause) {
        if (replaced) await rename(aside, this.path);
        throw cause;
      }
      this.#state = 'committed';
      await rm(join(this.path, markerName), { force: true });
      await syncFolder(dirname(this.path));
    } catch (cause) {
      throw unwritable(this.path, cause);
    }
    try {
      if (replaced) await rm(aside, { recursive: true, force: true });
    } catch (cause) {
      throw unwritable(aside, cause, 'that the folder just replaced can be removed');
    }
  }

  /** Leaves the partial folder, as that of a stopped run, for a later `create` with `resume`. */
  async keep(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'kept';
    const mark = JSON.stringify({ ...(await owner(process.pid)), start: '' });
    await writeFile(join(this.partial, markerName), mark).catch((cause) => {
      throw unwritable(this.partial, cause);
    });
  }

  /** Removes the partial folder. Does nothing after `commit`, `keep` or a first `discard`. */
  async discard(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'discarded';
    try {
      await rm(this.partial, { recursive: true, force: true });
    } catch (cause) {
      throw unwritable(this.partial, cause);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.discard();
  }

  #check(): void {
    if (this.#state !== 'open') {
      throw new MoeError('DISPOSED', {
        argument: this.path,
        expected: 'a folder in the making',
        received: `a ${this.#state} one`,
      });
    }
  }

  /** Whether a folder is to be replaced. */
  async #checkTarget(): Promise<boolean> {
    const names = await namesIn(this.path);
    if (names === undefined) return false;
    if (!this.#force) throw existing(this.path, 'no such folder yet (force replaces it)', 'one');
    if (names.length > 0 && !names.includes('config.json')) {
      throw existing(this.path, 'an empty folder or one with a config.json, to be replaced', 'another');
    }
    return true;
  }
}

/** Names in a folder; undefined where nothing is there. */
async function namesIn(path: string): Promise<string[] | undefined> {
  try {
    if (!(await stat(path)).isDirectory()) throw existing(path, 'a folder or nothing', 'a file');
    return await readdir(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    if ((cause as NodeJS.ErrnoException).code === 'ENOTDIR') throw unwritable(path, cause);
    throw unreadable(path, cause, 'a folder that can be read');
  }
}

/** Whether there is a partial folder that a stopped process of this host left. Rejects with FILE_EXISTS where it is anything else. */
async function stoppedRun(partial: string): Promise<boolean> {
  const names = await namesIn(partial);
  if (names === undefined) return false;
  // A run stopped between making the folder and marking it leaves an empty one.
  if (names.length > 0) {
    const found = await marker(partial);
    if (!found)
      throw existing(partial, 'nothing there, or the remains of a stopped run', 'something else: move it away');
    if (found.host !== hostname()) {
      throw existing(
        partial,
        'the remains of a stopped run on this host',
        `those of a run on ${found.host}: remove them if it has stopped`,
      );
    }
    const running = await owner(found.pid);
    if (running.start !== '' && running.start === found.start) {
      throw existing(partial, 'no other run that writes it', `process ${found.pid}, which is running`);
    }
  }
  return true;
}

interface Owner {
  host: string;
  pid: number;
  /** Start of the process in clock ticks since boot, as the number alone may be taken again; '' where it does not run. */
  start: string;
}

async function owner(pid: number): Promise<Owner> {
  let start = '';
  try {
    const status = await readFile(`/proc/${pid}/stat`, 'utf8');
    // Field 22; the second is the name in parentheses and may hold blanks.
    start = status.slice(status.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    start = '';
  }
  return { host: hostname(), pid, start };
}

async function marker(partial: string): Promise<Owner | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(join(partial, markerName), 'utf8'));
    const { host, pid, start } = value as Owner;
    return typeof host === 'string' && Number.isSafeInteger(pid) && typeof start === 'string'
      ? { host, pid, start }
      : undefined;
  } catch {
    return undefined;
  }
}

function existing(path: string, expected: string, received: string): MoeError {
  return new MoeError('FILE_EXISTS', { argument: path, expected, received });
}

/** As `mkdir` with `recursive`, which never ends where the system refuses a folder with ENOENT, as /proc does (Node 20). */
async function makeParents(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    await makeParents(dirname(path));
    await mkdir(path);
  }
}
