/** Attention to a cache that comes from memory. */
import type { Device } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import type { Value } from '../graph/value.ts';
import { type CacheDtype, cacheForm } from '../model/kv-cache.ts';
import { Tensor } from '../tensor/tensor.ts';
import { type Case, caseGroups } from './cases.ts';
import { randomTensor } from './data.ts';
import type { Group } from './rows.ts';
import type { BenchShape } from './shapes.ts';

export interface AttentionBenchOptions {
  readonly tokens: readonly number[];
  /** In the cache after the call, at least the call's own tokens. */
  readonly keys: number;
  readonly caches: readonly CacheDtype[];
  readonly warm: boolean;
}

/** The tokens of a call end a sequence of `keys`; `weights` is the dtype of the cache. Bytes are those of the keys and values. */
export function attentionGroups(
  device: Device,
  { name, heads, kvHeads, headDim }: BenchShape,
  { tokens, keys, caches, warm }: AttentionBenchOptions,
): Group[] {
  if (headDim === 0) {
    const expected = 'a model whose heads have keys of their own';
    throw new MoeError('UNSUPPORTED', { argument: 'shape', expected, received: `${name}, with latent attention` });
  }
  const cases = caches.flatMap((dtype) =>
    tokens.map((count): Case => {
      const length = Math.max(keys, count);
      const pages = Math.ceil(length / 16);
      const width = kvHeads * headDim;
      const form = cacheForm(dtype, kvHeads, headDim);
      const integers = (values: Int32Array): Promise<Tensor> =>
        Tensor.from(device, values, { dtype: 'i32', shape: [values.length] });
      const cache = (): Promise<Tensor> =>
        dtype === 'f32'
          ? randomTensor(device, [pages, 16, width])
          : Tensor.zeros(device, form.dtype, [pages, 16, form.width]);
      // Token t of the call sees length − count + t + 1 keys.
      const pairs = count * (length - count) + (count * (count + 1)) / 2;
      return {
        name: `${dtype} cache, ${length} keys`,
        tokens: count,
        build(g) {
          const input = (of: string): Value => g.input(of, 'i32', ['tokens']);
          const wide = (of: string, columns: number): Value => g.input(of, 'f32', ['tokens', columns]);
          const state = (of: string): Value => g.state(of, form.dtype, [pages, 16, form.width]);
          const y = g.attention({
            q: wide('q', heads * headDim),
            k: wide('k', width),
            v: wide('v', width),
            positions: input('positions'),
            sequence: input('sequence'),
            lengths: g.input('lengths', 'i32', [1]),
            pages: g.input('pages', 'i32', [pages]),
            kCache: state('keys'),
            vCache: state('values'),
            heads,
            kvHeads,
          });
          g.output('y', y);
        },
        inputs: async () => ({
          q: await randomTensor(device, [count, heads * headDim]),
          k: await randomTensor(device, [count, width]),
          v: await randomTensor(device, [count, width]),
          positions: await integers(Int32Array.from({ length: count }, (_, at) => length - count + at)),
          sequence: await integers(new Int32Array(count)),
          lengths: await integers(Int32Array.of(length)),
          pages: await integers(Int32Array.from({ length: pages }, (_, page) => page)),
          keys: await cache(),
          values: await cache(),
        }),
        cost: {
          bytes: 2 * length * form.width * { f32: 4, f16: 2, bf16: 2, i8: 1 }[form.dtype],
          operations: { [dtype === 'f32' ? 'f32' : 'bf16']: 4 * heads * headDim * pairs },
        },
      };
    }),
  );
  return caseGroups(device, 'attention', name, cases, warm);
}
