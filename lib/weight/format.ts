/** Weight formats: how the matrices of a bank are kept, and what they cost. docs/weights.md draws the plain form. */
import type { NativeWeightForm } from '../addon.ts';
import { invalid, requireInteger, requireObject } from '../arguments.ts';

export type GroupSize = 32 | 64 | 128 | 'channel';
/** How `linear` treats its input under integer weights; see operations.h. 'auto': what the device does best. */
export type ActivationMode = 'auto' | 'exact' | 'int8';

export interface FloatFormat {
  format: 'f32' | 'f16' | 'bf16';
}

/**
 * w = scale · code − offset, a scale (and offset) for each `groupSize` inputs of a row; 'channel': for the whole row. Dual-grained:
 * w = outer · scale · code with whole-number scales, so that a row is exact 8-bit integers under its one outer scale.
 */
export interface IntegerFormat {
  format: 'int8' | 'int4';
  /** Default: 32 for int4, 'channel' for int8. */
  groupSize?: GroupSize | undefined;
  /** Default: true for int4, false (symmetric) for int8, where dual and in a sparse part. */
  offset?: boolean | undefined;
  /** Dtype of scales and offsets; where dual of the outer scales. Default: f16 for int4, f32 for int8. */
  scale?: 'f16' | 'f32' | undefined;
  /** Dual-grained scales: only a base of int4 without offset and by groups. Default false. */
  dual?: boolean | undefined;
  /** Default 'auto'. */
  activation?: ActivationMode | undefined;
}

export type WeightFormat = FloatFormat | IntegerFormat;

const floatBytes = { f32: 4, f16: 2, bf16: 2 } as const;
const scaleBytes = { f32: 4, f16: 2, i8: 1 } as const;
const groupSizes: readonly unknown[] = [32, 64, 128, 'channel'];
const activationModes: readonly unknown[] = ['auto', 'exact', 'int8'];

/** The format as the native side takes it, with defaults filled in. Throws INVALID_ARGUMENT. */
export function nativeForm(format: WeightFormat): NativeWeightForm {
  requireObject(format, 'format');
  if (format.format === 'f32' || format.format === 'f16' || format.format === 'bf16') return { store: format.format };
  if (format.format !== 'int8' && format.format !== 'int4') {
    throw invalid('format', 'f32, f16, bf16, int8 or int4', (format as WeightFormat).format);
  }
  const four = format.format === 'int4';
  const { dual = false } = format;
  const {
    groupSize = four ? 32 : 'channel',
    offset = four && !dual,
    scale = four ? 'f16' : 'f32',
    activation = 'auto',
  } = format;
  if (typeof dual !== 'boolean') throw invalid('dual', 'true or false', dual);
  if (!groupSizes.includes(groupSize)) throw invalid('groupSize', "32, 64, 128 or 'channel'", groupSize);
  if (typeof offset !== 'boolean') throw invalid('offset', 'true or false', offset);
  if (scale !== 'f16' && scale !== 'f32') throw invalid('scale', 'f16 or f32', scale);
  if (!activationModes.includes(activation)) throw invalid('activation', 'auto, exact or int8', activation);
  const group = groupSize === 'channel' ? 0 : groupSize;
  if (!dual) return { store: four ? 'i4' : 'i8', scale, offset, group };
  if (!four) throw invalid('dual', 'false for int8', dual);
  if (offset) throw invalid('offset', 'false where dual', offset);
  if (group === 0) throw invalid('groupSize', '32, 64 or 128 where dual', groupSize);
  return { store: 'i4', scale: 'i8', offset, group, outer: scale };
}

/** What `linear` does under this format where nothing else is asked: 'exact' under float weights. */
export function activationMode(format: WeightFormat): ActivationMode {
  return 'activation' in format ? (format.activation ?? 'auto') : isInteger(format) ? 'auto' : 'exact';
}

/**
 * Reads 'bf16', 'int4', 'int4:64', 'int8:32:offset', 'int4:channel:symmetric:f32', 'int4:64:dual': the format, then in any order a
 * group size, 'offset' or 'symmetric', the dtype of the scales, 'dual'. Throws INVALID_ARGUMENT.
 */
export function parseWeightFormat(text: string): WeightFormat {
  if (typeof text !== 'string') throw invalid('weights', "text such as 'int4:64'", text);
  const [name, ...options] = text.split(':');
  if (name === 'f32' || name === 'f16' || name === 'bf16') {
    if (options.length > 0) throw invalid('weights', `${name} without options`, text);
    return { format: name };
  }
  if (name !== 'int8' && name !== 'int4') throw invalid('weights', 'f32, f16, bf16, int8 or int4', text);
  const format: IntegerFormat = { format: name };
  for (const option of options) {
    if (option === '32' || option === '64' || option === '128') format.groupSize = Number(option) as 32 | 64 | 128;
    else if (option === 'channel') format.groupSize = option;
    else if (option === 'offset' || option === 'symmetric') format.offset = option === 'offset';
    else if (option === 'f16' || option === 'f32') format.scale = option;
    else if (option === 'dual') format.dual = true;
    else throw invalid('weights', 'options among 32, 64, 128, channel, offset, symmetric, f16, f32, dual', text);
  }
  return format;
}

/** The inverse of {@link parseWeightFormat}, defaults left out: 'int4', 'int4:64', 'int8:32:offset'. Throws INVALID_ARGUMENT. */
export function formatName(format: WeightFormat): string {
  const form = nativeForm(format);
  if (!isInteger(format)) return format.format;
  const standard = nativeForm({ format: format.format, dual: format.dual });
  const words: (string | number)[] = [format.format];
  if (form.group !== standard.group) words.push(form.group === 0 ? 'channel' : (form.group as number));
  if (form.offset !== standard.offset) words.push(form.offset ? 'offset' : 'symmetric');
  if (form.scale !== standard.scale) words.push(form.scale as string);
  if (form.outer !== standard.outer) words.push(form.outer as string);
  if (form.outer) words.push('dual');
  return words.join(':');
}

/** Bytes of the plain form of a [rows, columns] matrix: values, then scales and offsets. Throws INVALID_ARGUMENT. */
export function formatBytes(format: WeightFormat, rows: number, columns: number): number {
  const form = nativeForm(format);
  requireInteger(rows, 'rows', 0);
  requireInteger(columns, 'columns', 0);
  if (form.store !== 'i8' && form.store !== 'i4') return rows * columns * floatBytes[form.store];
  const values = form.store === 'i4' ? Math.ceil(columns / 2) : columns;
  const scales = groupCount(form, columns) * scaleBytes[form.scale as 'f16' | 'f32' | 'i8'];
  return rows * (values + scales * (form.offset ? 2 : 1) + (form.outer ? floatBytes[form.outer] : 0));
}

/** Groups along a row of `columns` inputs; 1 where the group is the row. */
export function groupCount(form: NativeWeightForm, columns: number): number {
  return form.group ? Math.ceil(columns / form.group) : 1;
}

export function isInteger(format: WeightFormat): format is IntegerFormat {
  return format.format === 'int8' || format.format === 'int4';
}
