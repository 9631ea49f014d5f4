import { strict as assert } from 'node:assert';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type ErrorCode, MoeError } from '../../lib/errors.ts';

export const root = fileURLToPath(new URL('../../', import.meta.url));
export const tinyModel = join(root, 'examples/models/tiny-qwen3-moe');
export const shardedModel = join(root, 'test/golden/families/mixtral/model_sharded');

/** Runs the body with a folder that is removed afterwards. */
export async function inFolder<T>(body: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'node-moe-'));
  try {
    return await body(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Matches a MoeError of the code whose message has the words. */
export function moeError(code: ErrorCode, words: RegExp = /./): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof MoeError, `not a MoeError: ${String(error)}`);
    assert.equal(error.code, code, error.message);
    assert.match(error.message, words);
    return true;
  };
}

/** A safetensors file of the header text (or bytes) and so many data bytes. */
export function container(header: string | Uint8Array, dataBytes: number, headerLength?: number | bigint): Uint8Array {
  const body = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const file = new Uint8Array(8 + body.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerLength ?? body.length), true);
  file.set(body, 8);
  return file;
}

/** One F32 tensor's header item. */
export function item(name: string, elements: number, begin: number): string {
  return `${JSON.stringify(name)}:{"dtype":"F32","shape":[${elements}],"data_offsets":[${begin},${begin + 4 * elements}]}`;
}

export async function writeModel(folder: string, files: Record<string, string | Uint8Array>): Promise<void> {
  for (const [name, content] of Object.entries({ 'config.json': '{}', ...files }))
    await writeFile(join(folder, name), content);
}
