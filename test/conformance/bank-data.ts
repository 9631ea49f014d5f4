/** Random f32 data for every part of a bank. */
import type { WeightSpec, WeightValues } from '../../lib/index.ts';
import { normals, shuffled } from './random.ts';

/** How a bank is made, but for its sizes. */
export type Parts = Pick<WeightSpec, 'format' | 'baseOf' | 'lowRank' | 'rows' | 'sparse'>;

/** Each matrix adds about as much to y as normal values of deviation 1/√in do. */
export function bankData(random: () => number, spec: WeightSpec): WeightValues {
  const { slots = 1, inOf, outOf, format, baseOf, lowRank, rows, sparse } = spec;
  const widths = Array.from({ length: slots }, (_, s) => ({ in: inOf?.[s] ?? spec.in, out: outOf?.[s] ?? spec.out }));
  const sizes = (size: number | readonly number[]) =>
    widths.map((_, s) => (typeof size === 'number' ? size : size[s]) as number);
  const total = (count: (slot: { in: number; out: number }, s: number) => number, of = widths): number =>
    of.reduce((sum, slot, s) => sum + count(slot, s), 0);
  const near = 1 / Math.sqrt(spec.in);
  const data: WeightValues = {};
  if (format) {
    const bases = baseOf ? widths.slice(0, Math.max(...baseOf) + 1) : widths;
    data.base = normals(
      random,
      total((slot) => slot.in * slot.out, bases),
      near,
    );
  }
  if (lowRank) {
    const ranks = sizes(lowRank.rank);
    const a = normals(
      random,
      total((slot, s) => slot.in * (ranks[s] as number)),
      near,
    );
    const b = normals(
      random,
      total((slot, s) => slot.out * (ranks[s] as number)),
      1 / Math.sqrt(Math.max(...ranks)),
    );
    data.lowRank = { a, b };
  }
  if (rows) {
    const counts = sizes(rows.count);
    const index = widths.flatMap(({ out }, s) => [...shuffled(random, out).subarray(0, counts[s]).sort()]);
    const values = normals(
      random,
      total((slot, s) => slot.in * (counts[s] as number)),
      near,
    );
    data.rows = { values, index: Int32Array.from(index) };
  }
  if (sparse) {
    const { n, m } = sparse;
    const size = total((slot) => slot.out * Math.ceil(slot.in / m) * n);
    const values = normals(random, size, near);
    const index = new Uint8Array(size);
    let at = 0;
    for (const { in: width, out } of widths) {
      for (let block = 0; block < out * Math.ceil(width / m); block++, at += n) {
        index.set(shuffled(random, m).subarray(0, n).sort(), at);
        const first = (block % Math.ceil(width / m)) * m;
        for (let i = at; i < at + n; i++) if (first + (index[i] as number) >= width) values[i] = 0;
      }
    }
    data.sparse = { values, index };
  }
  if (spec.bias)
    data.bias = normals(
      random,
      total(({ out }) => out),
      0.1,
    );
  return data;
}
