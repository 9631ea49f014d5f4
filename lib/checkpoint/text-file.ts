import { readFile } from 'node:fs/promises';
import { gunzipSync } from 'node:zlib';
import { unreadable } from './files.ts';

/** A text file as UTF-8; `.gz` is unpacked. Throws FILE_UNREADABLE. */
export async function readText(path: string): Promise<string> {
  try {
    const bytes = await readFile(path);
    return (path.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('utf8');
  } catch (cause) {
    throw unreadable(path, cause, 'a readable text file');
  }
}
