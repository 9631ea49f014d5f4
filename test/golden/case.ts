/** Reads a golden case: what the model gives, by the library that the case was made with. */
import { strict as assert } from 'node:assert';
import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseHeader } from '../../lib/checkpoint/safetensors.ts';

const root = fileURLToPath(new URL('./families/', import.meta.url));

export interface GoldenTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

export interface GoldenCase {
  readonly folder: string;
  /** Relative maximum error that another implementation may have. */
  readonly tolerance: number;
  /** Of a block. */
  readonly layer: number;
  has(name: string): boolean;
  floats(name: string): Float32Array;
  integers(name: string): Int32Array;
  shape(name: string): readonly number[];
}

export interface CaseName {
  readonly family: string;
  readonly name: string;
  /** One MoE block alone, or a whole language model. */
  readonly kind: 'block' | 'model';
}

/** Every case of every family, in the order of their names. */
export function listCases(): CaseName[] {
  const cases: CaseName[] = [];
  for (const family of readdirSync(root).sort()) {
    for (const name of readdirSync(join(root, family)).sort()) {
      const { kind } = JSON.parse(readFileSync(join(root, family, name, 'case.json'), 'utf8')) as CaseName;
      assert.ok(kind === 'block' || kind === 'model', `${family}/${name} is ${kind}`);
      cases.push({ family, name, kind });
    }
  }
  assert.ok(cases.length > 0);
  return cases;
}

export async function readCase(family: string, name: string): Promise<GoldenCase> {
  const folder = join(root, family, name);
  const about = JSON.parse(await readFile(join(folder, 'case.json'), 'utf8')) as {
    layer?: number;
    tolerance: { relative_max_error: number };
  };
  const tensors = await readTensors(join(folder, 'expected.safetensors'));
  const get = (tensor: string): GoldenTensor => tensors.get(tensor) ?? assert.fail(`${folder} has no ${tensor}`);
  return {
    folder,
    tolerance: about.tolerance.relative_max_error,
    layer: about.layer ?? 0,
    has: (tensor) => tensors.has(tensor),
    floats: (tensor) => get(tensor).data as Float32Array,
    integers: (tensor) => get(tensor).data as Int32Array,
    shape: (tensor) => get(tensor).shape,
  };
}

async function readTensors(path: string): Promise<Map<string, GoldenTensor>> {
  const bytes = new Uint8Array(await readFile(path));
  const { entries } = parseHeader(bytes, bytes.length, path);
  return new Map(
    entries.map(({ name, dtype, shape, begin, end }) => {
      const { buffer } = bytes.slice(begin, end);
      assert.ok(dtype === 'F32' || dtype === 'I32', `${name} is ${dtype}`);
      return [name, { shape, data: dtype === 'F32' ? new Float32Array(buffer) : new Int32Array(buffer) }];
    }),
  );
}

/** max |got − expected| / max |expected|. */
export function relativeError(got: Float32Array, expected: Float32Array): number {
  assert.equal(got.length, expected.length);
  let [error, largest] = [0, 0];
  for (const [index, value] of expected.entries()) {
    const difference = Math.abs((got[index] as number) - value);
    error = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(error, difference);
    largest = Math.max(largest, Math.abs(value));
  }
  return error / largest;
}

/** Dense gates [tokens, experts] of choices, whose order within a row has no meaning. */
export function denseGates(ids: Int32Array, gates: Float32Array, tokens: number, experts: number): Float32Array {
  const dense = new Float32Array(tokens * experts);
  const topK = ids.length / tokens;
  for (const [index, id] of ids.entries()) dense[Math.floor(index / topK) * experts + id] = gates[index] as number;
  return dense;
}
