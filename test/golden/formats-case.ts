/** Reads a case of test/golden/formats: its tensors as numbers, whatever they are stored as. */
import { strict as assert } from 'node:assert';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseHeader } from '../../lib/checkpoint/safetensors.ts';
import { bf16ToF32, f16ToF32 } from '../../lib/tensor/half.ts';

export interface FormatsCase {
  readonly results: Record<string, Record<string, number>>;
  /** f32, f16 and bf16. */
  floats(name: string): Float32Array;
  /** i8, u8 and i32. */
  integers(name: string): Int32Array;
  shape(name: string): readonly number[];
}

export function formatsCase(name: string): FormatsCase {
  const folder = fileURLToPath(new URL(`formats/${name}/`, import.meta.url));
  const { results = {} } = JSON.parse(readFileSync(`${folder}case.json`, 'utf8')) as Partial<FormatsCase>;
  const bytes = new Uint8Array(readFileSync(`${folder}tensors.safetensors`));
  const { entries } = parseHeader(bytes, bytes.length, folder);
  const find = (wanted: string) =>
    entries.find((entry) => entry.name === wanted) ?? assert.fail(`${name} has no ${wanted}`);
  return {
    results,
    shape: (wanted) => find(wanted).shape,
    floats(wanted) {
      const { dtype, begin, end } = find(wanted);
      const { buffer } = bytes.slice(begin, end);
      if (dtype === 'F32') return new Float32Array(buffer);
      if (dtype === 'F16') return f16ToF32(new Uint16Array(buffer));
      return dtype === 'BF16' ? bf16ToF32(new Uint16Array(buffer)) : assert.fail(`${wanted} is ${dtype}`);
    },
    integers(wanted) {
      const { dtype, begin, end } = find(wanted);
      const { buffer } = bytes.slice(begin, end);
      if (dtype === 'I8') return Int32Array.from(new Int8Array(buffer));
      if (dtype === 'U8') return Int32Array.from(new Uint8Array(buffer));
      return dtype === 'I32' ? new Int32Array(buffer) : assert.fail(`${wanted} is ${dtype}`);
    },
  };
}
