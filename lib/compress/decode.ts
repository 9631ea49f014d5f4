import { f16ToF32 } from '../tensor/half.ts';
import type { Codes } from './experts.ts';

/** The floats [rows, columns] of plain codes (docs/weights.md), scale·code − offset, as the native side gives them. Not for dual-grained ones. */
export function decodeCodes({ form, values, scale, offset }: Codes, rows: number, columns: number): Float32Array {
  if (!('groupSize' in form) || form.dual) throw new TypeError('not plain codes');
  const scales = floatsOf(scale, form.scale);
  const offsets = offset && floatsOf(offset, form.scale);
  const nibbles = form.format === 'int4';
  const group = form.groupSize === 'channel' ? columns : form.groupSize;
  const groups = Math.ceil(columns / group);
  const stride = nibbles ? Math.ceil(columns / 2) : columns;
  const to = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let index = 0; index < groups; index++) {
      const step = scales[row * groups + index] as number;
      const shift = offsets ? (offsets[row * groups + index] as number) : 0;
      const end = Math.min(columns, (index + 1) * group);
      for (let column = index * group; column < end; column++) {
        const byte = values[row * stride + (nibbles ? column >> 1 : column)] as number;
        const code = nibbles ? (byte << (column & 1 ? 24 : 28)) >> 28 : (byte << 24) >> 24;
        to[row * columns + column] = step * code - shift;
      }
    }
  }
  return to;
}

function floatsOf(bytes: Uint8Array, dtype: 'f16' | 'f32'): Float32Array {
  const own = bytes.slice().buffer;
  return dtype === 'f16' ? f16ToF32(new Uint16Array(own)) : new Float32Array(own);
}
