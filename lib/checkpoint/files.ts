/** Files of a folder that somebody else may have made: sizes bounded before reading, system errors turned into MoeError. */
import { open, stat } from 'node:fs/promises';
import { MoeError } from '../errors.ts';

/** Makes a FILE_UNREADABLE of what the system said. */
export function unreadable(path: string, cause: unknown, expected = 'a readable file'): MoeError {
  return cause instanceof MoeError
    ? cause
    : new MoeError('FILE_UNREADABLE', { argument: path, expected, received: reason(cause), cause });
}

/** Makes a FILE_UNWRITABLE of what the system said. */
export function unwritable(path: string, cause: unknown, expected = 'a writable path and enough space'): MoeError {
  return cause instanceof MoeError
    ? cause
    : new MoeError('FILE_UNWRITABLE', { argument: path, expected, received: reason(cause), cause });
}

function reason(cause: unknown): string {
  return cause instanceof Error ? ((cause as NodeJS.ErrnoException).code ?? cause.message) : String(cause);
}

/** Whether anything is there. */
export async function exists(path: string): Promise<boolean> {
  return (await sizeOf(path)) !== undefined;
}

/** Bytes of a regular file (symbolic links followed); undefined where there is none. Throws FILE_UNREADABLE. */
export async function sizeOf(path: string): Promise<number | undefined> {
  try {
    const found = await stat(path);
    // A pipe or device would block or never end.
    if (!found.isFile())
      throw new MoeError('FILE_UNREADABLE', { argument: path, expected: 'a regular file', received: 'something else' });
    return found.size;
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw unreadable(path, cause);
  }
}

/** A whole file of at most `limit` bytes. Throws FILE_UNREADABLE. */
export async function readWhole(path: string, limit: number): Promise<Uint8Array> {
  const size = await sizeOf(path);
  if (size === undefined)
    throw new MoeError('FILE_UNREADABLE', { argument: path, expected: 'a readable file', received: 'ENOENT' });
  if (size > limit) {
    throw new MoeError('FILE_UNREADABLE', { argument: path, expected: `at most ${limit} bytes`, received: `${size}` });
  }
  return readStart(path, size);
}

/** The first `bytes` bytes of a file, fewer where it ends before. Throws FILE_UNREADABLE. */
export async function readStart(path: string, bytes: number, from = 0): Promise<Uint8Array> {
  try {
    const handle = await open(path, 'r');
    try {
      const result = new Uint8Array(bytes);
      let done = 0;
      while (done < bytes) {
        const { bytesRead } = await handle.read(result, done, bytes - done, from + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return result.subarray(0, done);
    } finally {
      await handle.close();
    }
  } catch (cause) {
    throw unreadable(path, cause);
  }
}
