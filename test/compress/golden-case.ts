import { fileURLToPath } from 'node:url';
import { readStart, sizeOf } from '../../lib/checkpoint/files.ts';
import { readHeader } from '../../lib/checkpoint/safetensors.ts';

/** A case of other people's code: its tensors as numbers. */
export interface GoldenCase {
  /** Shape and values; integers come as numbers too. */
  tensor(name: string): { shape: readonly number[]; values: Float64Array };
}

export async function goldenCase(name: string): Promise<GoldenCase> {
  const file = fileURLToPath(new URL(`../golden/compress/${name}/tensors.safetensors`, import.meta.url));
  const { entries } = await readHeader(file, (await sizeOf(file)) as number);
  const bytes = await readStart(file, (await sizeOf(file)) as number);
  return {
    tensor(wanted) {
      const entry = entries.find((candidate) => candidate.name === wanted);
      if (!entry) throw new Error(`no tensor ${wanted}`);
      const buffer = bytes.slice(entry.begin, entry.end).buffer;
      const values =
        entry.dtype === 'I64'
          ? Float64Array.from(new BigInt64Array(buffer), Number)
          : Float64Array.from(new Float32Array(buffer));
      return { shape: entry.shape, values };
    },
  };
}
