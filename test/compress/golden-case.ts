import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { readStart, sizeOf } from '../../lib/checkpoint/files.ts';
import { readHeader } from '../../lib/checkpoint/safetensors.ts';
import type { ExpertMatrices } from '../../lib/compress/expert.ts';

export interface GoldenTensor {
  readonly shape: readonly number[];
  /** Integers come as numbers too. */
  readonly values: Float64Array;
}

/** A case of other people's code: its tensors as numbers. */
export interface GoldenCase {
  tensor(name: string): GoldenTensor;
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
      return { shape: entry.shape, values: numbers(entry.dtype, buffer) };
    },
  };
}

function numbers(dtype: string, buffer: ArrayBuffer): Float64Array {
  switch (dtype) {
    case 'I64':
      return Float64Array.from(new BigInt64Array(buffer), Number);
    case 'I32':
      return Float64Array.from(new Int32Array(buffer));
    case 'F64':
      return new Float64Array(buffer);
    case 'F32':
      return Float64Array.from(new Float32Array(buffer));
    default:
      throw new Error(`${dtype} tensors are not read`);
  }
}

/** Part `index` of a stack. */
export function slice({ shape, values }: GoldenTensor, ...index: number[]): Float64Array {
  const size = shape.slice(index.length).reduce((product, length) => product * length, 1);
  const at = index.reduce((offset, position, axis) => offset * (shape[axis] as number) + position, 0);
  return values.subarray(at * size, (at + 1) * size);
}

export function closeTo(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  assert.equal(got.length, want.length);
  for (let i = 0; i < got.length; i++) {
    assert.ok(Math.abs((got[i] as number) - (want[i] as number)) <= tolerance, `${i}: ${got[i]} for ${want[i]}`);
  }
}

/** Every value within `tolerance` times the largest absolute value. */
export function closeToLargest(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  closeTo(got, want, tolerance * Array.from(want).reduce((most, value) => Math.max(most, Math.abs(value)), 0));
}

/** One expert of stacks of matrices. */
export function expertOf(
  { gate, up, down }: { readonly gate?: GoldenTensor; readonly up: GoldenTensor; readonly down: GoldenTensor },
  ...index: number[]
): ExpertMatrices {
  const [width = 0, hidden = 0] = up.shape.slice(index.length);
  const f32 = (tensor: GoldenTensor): Float32Array => Float32Array.from(slice(tensor, ...index));
  return { width, hidden, gate: gate && f32(gate), up: f32(up), down: f32(down) };
}
