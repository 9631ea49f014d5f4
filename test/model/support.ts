import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root, tinyModel } from '../checkpoint/support.ts';

export { moeError, tinyModel } from '../checkpoint/support.ts';

export const kinds = ['node', 'python', 'types'] as const;

export async function evaluationText(kind: (typeof kinds)[number]): Promise<string> {
  return readFile(join(root, `examples/text/${kind}.evaluate.txt`), 'utf8');
}

/** Mean negative log-likelihoods in float32 by transformers, of the first 8 windows of 256 tokens of the evaluation texts. */
export async function expectedNll(): Promise<Record<(typeof kinds)[number], number>> {
  return JSON.parse(await readFile(join(tinyModel, 'nll.json'), 'utf8')).own.windows8;
}

export function goldenFolder(family: string, name = 'model'): string {
  return join(root, 'test/golden/families', family, name);
}

/** Runs the body with a writable copy of a model folder, its config.json changed. */
export async function withCopy<T>(
  folder: string,
  change: (config: Record<string, unknown>) => void,
  body: (copy: string) => Promise<T>,
): Promise<T> {
  const copy = await mkdtemp(join(tmpdir(), 'node-moe-'));
  try {
    await cp(folder, copy, { recursive: true });
    const config = JSON.parse(await readFile(join(copy, 'config.json'), 'utf8')) as Record<string, unknown>;
    change(config);
    await writeFile(join(copy, 'config.json'), JSON.stringify(config));
    return await body(copy);
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}
