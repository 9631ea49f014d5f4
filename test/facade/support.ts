/** What the tests of the facade share. */
import assert from 'node:assert/strict';
import {
  type Device,
  type ErrorCode,
  Graph,
  MoeError,
  type Program,
  Weight,
  type WeightFormat,
} from '../../lib/index.ts';
import { generator, normals } from '../conformance/random.ts';

/** For assert.throws and assert.rejects: a MoeError with this code, and this argument where one is given. */
export function moeError(code: ErrorCode, argument?: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof MoeError, `a MoeError, not ${String(error)}`);
    assert.equal(error.code, code, error.message);
    if (argument !== undefined) assert.equal(error.argument, argument, error.message);
    assert.ok(error.expected && error.received, `what was expected and what came: ${error.message}`);
    return true;
  };
}

export function normal(count: number, seed = 1): Float32Array {
  return normals(generator(seed), count);
}

/** y = x·Wᵀ, x f32 [tokens, size], W [size, size]. */
export async function linearProgram(
  device: Device,
  size = 64,
  tokens = 64,
  format: WeightFormat = { format: 'f32' },
): Promise<{ program: Program; weight: Weight; values: Float32Array; dispose(): void }> {
  const values = normal(size * size, 7);
  const weight = await Weight.from(device, { in: size, out: size, format }, values);
  const g = new Graph(device);
  const program = g.output('y', g.linear(g.input('x', 'f32', ['tokens', size]), weight)).compile({ tokens });
  const dispose = (): void => {
    program.dispose();
    weight.dispose();
  };
  return { program, weight, values, dispose };
}

/** A program that computes for a while: `depth` layers of size × size over `tokens`. */
export async function longProgram(
  device: Device,
  options: { size?: number; depth?: number; tokens?: number } = {},
): Promise<{ program: Program; x: Float32Array; dispose(): void }> {
  const { size = 512, depth = 200, tokens = 256 } = options;
  const weight = await Weight.from(device, { in: size, out: size, format: { format: 'f32' } }, normal(size * size, 3));
  const g = new Graph(device);
  let value = g.input('x', 'f32', ['tokens', size]);
  for (let layer = 0; layer < depth; layer++) value = g.norm(g.linear(value, weight), undefined);
  const program = g.output('y', value).compile({ tokens });
  const dispose = (): void => {
    program.dispose();
    weight.dispose();
  };
  return { program, x: normal(tokens * size, 4), dispose };
}
