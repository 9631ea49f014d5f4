/**
 * How a matrix of an expert is stored: the parts of docs/weights.md as tensors whose names begin with the matrix's own.
 *
 *     NAME         the base [rows, columns]
 *     NAME_a       low rank: A [rank, columns]           NAME_b       B [rows, rank]
 *     NAME_rows    kept rows [count, columns]            NAME_rows_index     I32 [count], ascending
 *     NAME_sparse  kept values [rows, ceil(columns / m)·n]
 *     NAME_sparse_index  U8: the place of each value among its m inputs, in 2, 4 or 8 bits (m ≤ 4, 16, 256), the first lowest
 *
 * Quantized values are I8 [rows, columns] or U8 [rows, ceil(columns / 2)]: two's complement nibbles, the even column in the low half.
 * Beside them lie _scale and, where the form has them, _offset: F16 or F32 [rows, groups], groups = ceil(inputs / groupSize), 1 for
 * 'channel'; dual-grained: _scale I8 [rows, groups] and _outer F16 or F32 [rows, 1].
 */
import type { NativeWeightForm } from '../addon.ts';
import type { SafetensorsDtype } from './safetensors.ts';
import type { WriterEntry } from './writer.ts';

export interface StoredFloats {
  readonly format: 'f32' | 'f16' | 'bf16';
}

export interface StoredIntegers {
  readonly format: 'int8' | 'int4';
  /** Elements of a row that share a scale. */
  readonly groupSize: 32 | 64 | 128 | 'channel';
  readonly offset: boolean;
  /** Of scales and offsets; where dual of the outer scales. */
  readonly scale: 'f16' | 'f32';
  readonly dual?: boolean;
}

export type StoredForm = StoredFloats | StoredIntegers;

/** The parts of one matrix in all slots of a layer; at least one is there. */
export interface StoredMatrix {
  readonly base?: StoredForm;
  /** `rank` [slots], 0: none. `sharedA`: the up projection reads through the gate's A and stores none. */
  readonly lowRank?: { readonly form: StoredFloats; readonly rank: readonly number[]; readonly sharedA: boolean };
  /** `count` [slots], 0: none. */
  readonly rows?: { readonly form: StoredForm; readonly count: readonly number[] };
  readonly sparse?: { readonly form: StoredForm; readonly n: number; readonly m: number };
}

export type PartName = 'base' | 'a' | 'b' | 'rows' | 'sparse';

/** One part of one matrix: its tensors. */
export interface StoredPart {
  readonly part: PartName;
  readonly form: StoredForm;
  readonly rows: number;
  /** Values of a row. */
  readonly columns: number;
  readonly values: WriterEntry;
  readonly scale?: WriterEntry;
  readonly offset?: WriterEntry;
  readonly outer?: WriterEntry;
  readonly index?: WriterEntry;
}

const floatDtypes = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const satisfies Record<string, SafetensorsDtype>;

/** The parts of slot `slot`; `hasBase`: false where the slot's base belongs to another one. */
export function storedParts(
  name: string,
  { base, lowRank, rows: kept, sparse }: StoredMatrix,
  slot: number,
  [rows, columns]: readonly [number, number],
  hasBase = true,
): StoredPart[] {
  const parts: StoredPart[] = [];
  if (base && hasBase) parts.push(partOf('base', name, base, rows, columns, columns));
  const rank = lowRank?.rank[slot] ?? 0;
  if (lowRank && rank > 0) {
    if (!lowRank.sharedA) parts.push(partOf('a', `${name}_a`, lowRank.form, rank, columns, columns));
    parts.push(partOf('b', `${name}_b`, lowRank.form, rows, rank, rank));
  }
  const count = kept?.count[slot] ?? 0;
  if (kept && count > 0) {
    const index = { name: `${name}_rows_index`, dtype: 'I32', shape: [count] } as const;
    parts.push({ ...partOf('rows', `${name}_rows`, kept.form, count, columns, columns), index });
  }
  if (sparse) {
    const values = Math.ceil(columns / sparse.m) * sparse.n;
    const packed = Math.ceil((values * placeBits(sparse.m)) / 8);
    const index = { name: `${name}_sparse_index`, dtype: 'U8', shape: [rows, packed] } as const;
    parts.push({ ...partOf('sparse', `${name}_sparse`, sparse.form, rows, values, columns), index });
  }
  return parts;
}

/** The tensors of a part, values first. */
export function partEntries(part: StoredPart): WriterEntry[] {
  const { values, scale, offset, outer, index } = part;
  return [values, scale, offset, outer, index].filter((entry) => entry !== undefined);
}

/** @param inputs the dense columns, which groups of a scale count */
function partOf(
  part: PartName,
  name: string,
  form: StoredForm,
  rows: number,
  columns: number,
  inputs: number,
): StoredPart {
  if (!('groupSize' in form)) {
    return { part, form, rows, columns, values: { name, dtype: floatDtypes[form.format], shape: [rows, columns] } };
  }
  const { format, groupSize, offset, scale, dual } = form;
  const values: WriterEntry =
    format === 'int8'
      ? { name, dtype: 'I8', shape: [rows, columns] }
      : { name, dtype: 'U8', shape: [rows, Math.ceil(columns / 2)] };
  const groups = groupSize === 'channel' ? 1 : Math.ceil(inputs / groupSize);
  const dtype = floatDtypes[scale];
  return {
    part,
    form,
    rows,
    columns,
    values,
    scale: { name: `${name}_scale`, dtype: dual ? 'I8' : dtype, shape: [rows, groups] },
    ...(offset && { offset: { name: `${name}_offset`, dtype, shape: [rows, groups] } }),
    ...(dual && { outer: { name: `${name}_outer`, dtype, shape: [rows, 1] } }),
  };
}

/** The form as the native side names it. */
export function storedNativeForm(form: StoredForm): NativeWeightForm {
  if (!('groupSize' in form)) return { store: form.format };
  const { format, groupSize, offset, scale, dual } = form;
  const store = format === 'int4' ? 'i4' : 'i8';
  const group = groupSize === 'channel' ? 0 : groupSize;
  return dual ? { store, scale: 'i8', offset: false, group, outer: scale } : { store, scale, offset, group };
}

/** Bits of a place among m inputs. */
export function placeBits(m: number): 2 | 4 | 8 {
  return m <= 4 ? 2 : m <= 16 ? 4 : 8;
}

/** Places u8 [rows, columns] to packed rows, and back. */
export function packPlaces(places: Uint8Array, rows: number, columns: number, m: number): Uint8Array {
  const bits = placeBits(m);
  const stride = Math.ceil((columns * bits) / 8);
  const packed = new Uint8Array(rows * stride);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const at = row * stride + Math.floor((column * bits) / 8);
      packed[at] = (packed[at] as number) | ((places[row * columns + column] as number) << ((column * bits) % 8));
    }
  }
  return packed;
}

export function unpackPlaces(packed: Uint8Array, rows: number, columns: number, m: number): Uint8Array {
  const bits = placeBits(m);
  const stride = Math.ceil((columns * bits) / 8);
  const places = new Uint8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const byte = packed[row * stride + Math.floor((column * bits) / 8)] as number;
      places[row * columns + column] = (byte >> ((column * bits) % 8)) & ((1 << bits) - 1);
    }
  }
  return places;
}
