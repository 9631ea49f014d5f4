/** What rounding does to a matrix, and what that does to what it gives. */
import { addon } from '../../addon.ts';
import { type StoredForm, type StoredIntegers, storedNativeForm } from '../../checkpoint/stored-matrix.ts';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../tensor/half.ts';
import type { Codes } from '../experts.ts';
import { product } from '../numerics.ts';

/** What a reader finds of weight [rows, columns] that was rounded to the nearest when it was stored. */
export async function rounded(
  weight: Float32Array,
  rows: number,
  columns: number,
  form: StoredForm,
): Promise<Float32Array> {
  if (!('groupSize' in form)) {
    if (form.format === 'f32') return weight;
    return form.format === 'bf16' ? bf16ToF32(f32ToBf16(weight)) : f16ToF32(f32ToF16(weight));
  }
  const codes = emptyCodes(rows, columns, form);
  const { values, scale, offset, outer } = codes;
  await addon().quantize(weight, rows, columns, storedNativeForm(form), values, scale, offset, outer);
  return decoded(codes, rows, columns);
}

/** The floats of codes. */
export async function decoded(codes: Codes, rows: number, columns: number): Promise<Float32Array> {
  const { form, values, scale, offset, outer } = codes;
  const to = new Float32Array(rows * columns);
  await addon().dequantize(values, scale, offset, rows, columns, storedNativeForm(form), to, outer);
  return to;
}

/** Zeroed tensors of a form, as docs/weights.md lays them out. */
export function emptyCodes(rows: number, columns: number, form: StoredIntegers): Codes {
  const groups = form.groupSize === 'channel' ? 1 : Math.ceil(columns / form.groupSize);
  const scaleBytes = form.scale === 'f16' ? 2 : 4;
  return {
    form,
    values: new Uint8Array(rows * (form.format === 'int4' ? Math.ceil(columns / 2) : columns)),
    scale: new Uint8Array(rows * groups * (form.dual ? 1 : scaleBytes)),
    ...(form.offset && { offset: new Uint8Array(rows * groups * scaleBytes) }),
    ...(form.dual && { outer: new Uint8Array(rows * scaleBytes) }),
  };
}

/**
 * Σ (e·x)² of each row e of `error` [rows, columns] over the inputs x whose second moment Σ x·xᵀ is given.
 *
 * @returns f64 [rows]
 */
export async function rowErrors(
  error: Float32Array,
  moment: Float64Array,
  rows: number,
  columns: number,
): Promise<Float64Array> {
  const seen = await product(error, moment, { rows, columns, depth: columns });
  return Float64Array.from({ length: rows }, (_, row) => {
    let sum = 0;
    for (let at = row * columns; at < (row + 1) * columns; at++) sum += (error[at] as number) * (seen[at] as number);
    return Math.max(0, sum);
  });
}
