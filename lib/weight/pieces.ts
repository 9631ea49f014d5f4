/** The pieces of a bank that is given as f32 data, slot after slot. */
import type { HostArray, NativePiece } from '../addon.ts';
import { invalid, requireInteger, requireObject } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { type HostArrays, toHost } from '../tensor/dtype.ts';
import { baseSlots, sizeOf, type WeightSpec } from './spec.ts';

/** The data of each part that the spec names, all slots one after the other, each at its own widths. */
export interface WeightValues {
  /** [base slots, out, in]. */
  base?: Float32Array | undefined;
  /** a [slots, rank, in], b [slots, out, rank]. */
  lowRank?: { a: Float32Array; b: Float32Array } | undefined;
  /** values [slots, count, in]; index [slots, count]: the output row of each, ascending in a slot. */
  rows?: { values: Float32Array; index: Int32Array } | undefined;
  /**
   * values [slots, out, ceil(in / m)·n]; index alike: the place of each value among its m inputs, ascending in a block. A place
   * past the inputs, in a last block that is short, has value 0.
   */
  sparse?: { values: Float32Array; index: Uint8Array } | undefined;
  /** [slots, out]. */
  bias?: Float32Array | undefined;
}

/** A typed array that is given away piece by piece. */
class Source<Data extends HostArray> {
  readonly #data: Data;
  readonly #argument: string;
  #taken = 0;

  constructor(data: Data, argument: string) {
    this.#data = data;
    this.#argument = argument;
  }

  take(count: number): Data {
    this.#taken += count;
    return this.#data.subarray(this.#taken - count, this.#taken) as Data;
  }

  end(): void {
    if (this.#data.length === this.#taken) return;
    throw new MoeError('SHAPE_MISMATCH', {
      argument: this.#argument,
      expected: `${this.#taken} elements`,
      received: String(this.#data.length),
    });
  }
}

const form = { store: 'f32' } as const;

/** Throws INVALID_ARGUMENT, SHAPE_MISMATCH, DTYPE_MISMATCH: what is wrong with the lengths; the rest is for the native side. */
export function floatPieces(spec: WeightSpec, values: WeightValues): NativePiece[] {
  const { slots = 1 } = spec;
  requireInteger(spec.in, 'in');
  requireInteger(spec.out, 'out');
  requireInteger(slots, 'slots');
  for (const name of ['inOf', 'outOf'] as const) {
    const widths = spec[name] ?? [];
    if (!Array.isArray(widths)) throw invalid(name, 'a list of widths', widths);
    for (const width of widths) requireInteger(width, name);
  }
  const sources: Source<HostArray>[] = [];
  let longest = 0;
  const source = <D extends 'f32' | 'i32' | 'u8'>(data: HostArrays[D] | undefined, dtype: D, argument: string) => {
    const made = new Source<HostArray>(toHost(data as HostArrays[D], dtype, argument), argument);
    longest = Math.max(longest, (data as HostArrays[D]).length);
    sources.push(made);
    return made;
  };
  const { lowRank, rows, sparse } = spec;
  const named = { base: spec.format, lowRank, rows, sparse, bias: spec.bias || undefined };
  for (const part of ['base', 'lowRank', 'rows', 'sparse', 'bias'] as const) {
    if (named[part] === undefined && values[part] !== undefined)
      throw invalid(part === 'base' ? 'values' : part, 'nothing: the spec has no such part', values[part]);
  }
  const base = spec.format && source(values.base, 'f32', 'values');
  const factors = lowRank && {
    rank: sizes(lowRank.rank, 'lowRank.rank'),
    a: source(values.lowRank?.a, 'f32', 'lowRank.a'),
    b: source(values.lowRank?.b, 'f32', 'lowRank.b'),
  };
  const kept = rows && {
    count: sizes(rows.count, 'rows.count'),
    values: source(values.rows?.values, 'f32', 'rows.values'),
    index: source(values.rows?.index, 'i32', 'rows.index'),
  };
  const blocks = sparse && {
    n: requireInteger(requireObject(sparse, 'sparse').n, 'sparse.n'),
    m: requireInteger(sparse.m, 'sparse.m'),
    values: source(values.sparse?.values, 'f32', 'sparse.values'),
    index: source(values.sparse?.index, 'u8', 'sparse.index'),
  };
  const bias = spec.bias ? source(values.bias, 'f32', 'bias') : undefined;
  const bases = base ? baseSlots(spec) : 0;
  for (const list of [factors?.rank, kept?.count]) if (Array.isArray(list)) longest = Math.max(longest, list.length);
  // Every slot has an element or an entry: a huge number of slots ends here, not after as many pieces.
  if (slots > longest) {
    const expected = `an element for each of ${slots} slots`;
    throw new MoeError('SHAPE_MISMATCH', { argument: 'values', expected, received: String(longest) });
  }

  const pieces: NativePiece[] = [];
  for (let slot = 0; slot < slots; slot++) {
    const width = spec.inOf?.[slot] ?? spec.in;
    const out = spec.outOf?.[slot] ?? spec.out;
    const all = { slot, row: 0, rows: out, form };
    if (base && slot < bases) pieces.push({ ...all, part: 'base', values: base.take(out * width) });
    const rank = factors ? sizeOf(factors.rank, slot) : 0;
    if (factors && rank > 0) {
      pieces.push({ ...all, part: 'factorIn', rows: rank, values: factors.a.take(rank * width) });
      pieces.push({ ...all, part: 'factorOut', values: factors.b.take(out * rank) });
    }
    const count = kept ? sizeOf(kept.count, slot) : 0;
    if (kept && count > 0) {
      const [data, index] = [kept.values.take(count * width), kept.index.take(count)];
      pieces.push({ ...all, part: 'rows', rows: count, values: data, index });
    }
    if (blocks) {
      const size = out * Math.ceil(width / blocks.m) * blocks.n;
      pieces.push({ ...all, part: 'sparse', values: blocks.values.take(size), index: blocks.index.take(size) });
    }
    if (bias) pieces.push({ ...all, part: 'bias', values: bias.take(out) });
  }
  for (const one of sources) one.end();
  return pieces;
}

function sizes(size: number | readonly number[], argument: string): number | readonly number[] {
  if (Array.isArray(size)) for (const one of size) requireInteger(one, argument, 0);
  else requireInteger(size as number, argument);
  return size;
}
