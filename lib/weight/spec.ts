/** What a bank of weights holds: its sizes and its parts. docs/weights.md draws each. */
import type { NativeWeightForm, NativeWeightSpec } from '../addon.ts';
import { invalid, requireInteger, requireObject } from '../arguments.ts';
import {
  type ActivationMode,
  activationMode,
  type FloatFormat,
  isInteger,
  nativeForm,
  type WeightFormat,
} from './format.ts';

/** y += B·(A·x) with A [rank, in] and B [out, rank] a slot. */
export interface LowRank {
  /** Of every slot, or [slots]: of each, where 0 is none. */
  rank: number | readonly number[];
  /** Default bf16. */
  format?: FloatFormat | undefined;
}

/** y[index[i]] += row_i·x with whole rows [count, in] a slot. */
export interface KeptRows {
  /** Of every slot, or [slots]: of each, where 0 is none. */
  count: number | readonly number[];
  /** Not dual. */
  format: WeightFormat;
}

/** y += S·x, where of every m inputs in a row at most n count: [out, ceil(in / m)·n] values a slot. */
export interface Sparse {
  /** 1 ≤ n < m. */
  n: number;
  /** 2 to 256; it divides the groups of the format. */
  m: number;
  /** Symmetric, and not dual; groups count all inputs, kept or not. */
  format: WeightFormat;
}

/** A slot is Base + B·A + kept rows + S, each where it is given, at least one of them; then the bias. */
export interface WeightSpec {
  /** Inputs of a slot, the widest where they differ. */
  in: number;
  /** Output rows of a slot, the widest where they differ; gate and up together where `gated`. */
  out: number;
  /** Matrices in the bank. Default 1. */
  slots?: number | undefined;
  /** A slot's rows are out/2 gate rows, then out/2 up rows. Default false. */
  gated?: boolean | undefined;
  /** [slots] widths where slots differ. */
  inOf?: readonly number[] | undefined;
  outOf?: readonly number[] | undefined;
  /** Of the base [out, in] a slot; absent: there is none. */
  format?: WeightFormat | undefined;
  /** [slots], the base matrix that each slot adds its other parts to (delta form), from 0 on; absent: its own. */
  baseOf?: readonly number[] | undefined;
  lowRank?: LowRank | undefined;
  rows?: KeptRows | undefined;
  sparse?: Sparse | undefined;
  /** Default false. */
  bias?: boolean | undefined;
}

/** A copy that the caller cannot change. Throws INVALID_ARGUMENT where a part is no object, or there is none. */
export function copySpec(spec: WeightSpec): WeightSpec {
  const own = { ...requireObject(spec, 'spec') };
  const format = <Part extends { format?: WeightFormat | undefined }>(part: Part): Part =>
    part.format === undefined ? { ...part } : { ...part, format: { ...requireObject(part.format, 'format') } };
  for (const key of ['inOf', 'outOf', 'baseOf'] as const) own[key] = copyList(own[key]);
  if (own.lowRank !== undefined) own.lowRank = format(requireObject(own.lowRank, 'lowRank'));
  if (own.rows !== undefined) own.rows = format(requireObject(own.rows, 'rows'));
  if (own.sparse !== undefined) own.sparse = format(requireObject(own.sparse, 'sparse'));
  if (own.lowRank) own.lowRank.rank = copyList(own.lowRank.rank);
  if (own.rows) own.rows.count = copyList(own.rows.count);
  const { lowRank, rows, sparse } = own;
  if (!own.format && !lowRank && !rows && !sparse) throw invalid('format', 'a format, or another part', own.format);
  return format(own);
}

function copyList<Value>(value: Value): Value {
  return Array.isArray(value) ? ([...value] as Value) : value;
}

/** The spec as the native side takes it. Throws INVALID_ARGUMENT. */
export function nativeSpec(spec: WeightSpec): NativeWeightSpec {
  const { slots = 1, gated = false, bias = false, inOf, outOf, baseOf, lowRank, rows, sparse } = spec;
  return {
    in: spec.in,
    out: spec.out,
    slots,
    gated,
    bias,
    ...(inOf && { inOf }),
    ...(outOf && { outOf }),
    ...(spec.format && { base: nativeForm(spec.format) }),
    ...(baseOf && { baseOf }),
    ...(lowRank && { lowRank: { form: nativeForm(lowRank.format ?? { format: 'bf16' }), rank: lowRank.rank } }),
    ...(rows && { rows: { form: nativeForm(rows.format), count: rows.count } }),
    ...(sparse && { sparse: { form: sparseForm(sparse), n: sparse.n, m: sparse.m } }),
  };
}

/** A sparse part is symmetric unless it asks for what is then refused. */
function sparseForm(sparse: Sparse): NativeWeightForm {
  const format: WeightFormat = requireObject(sparse.format, 'sparse.format');
  return nativeForm(isInteger(format) ? { ...format, offset: format.offset ?? false } : format);
}

/** What `linear` does where nothing else is asked: as its integer parts say, 'exact' where there are none. */
export function specMode({ format, rows, sparse }: WeightSpec): ActivationMode {
  const integer = [format, rows?.format, sparse?.format].find((one) => one && isInteger(one));
  return integer ? activationMode(integer) : 'exact';
}

/** Rank or count of a slot. */
export function sizeOf(size: number | readonly number[], slot: number): number {
  return typeof size === 'number' ? size : (size[slot] ?? 0);
}

/** Matrices that the base has. Throws INVALID_ARGUMENT. */
export function baseSlots({ slots = 1, baseOf }: WeightSpec): number {
  if (baseOf === undefined) return slots;
  if (!Array.isArray(baseOf)) throw invalid('baseOf', 'a list of base slots', baseOf);
  return baseOf.reduce((most, slot) => Math.max(most, requireInteger(slot, 'baseOf', 0) + 1), 1);
}
