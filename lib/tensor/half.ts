/** float16 and bfloat16 as bits in a `Uint16Array`: exact widening, narrowing by round-half-even, NaN stays NaN. All throw as `toHost`. */
import { toHost } from './dtype.ts';

/** bf16 bits [n] to f32 [n]. */
export function bf16ToF32(bits: Uint16Array): Float32Array {
  toHost(bits, 'bf16', 'bits');
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = (bits[i] as number) << 16;
  return new Float32Array(words.buffer);
}

/** f32 [n] to bf16 bits [n]. */
export function f32ToBf16(values: Float32Array): Uint16Array {
  const words = wordsOf(values);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const word = words[i] as number;
    const nan = (word & 0x7fffffff) > 0x7f800000;
    bits[i] = nan ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return bits;
}

/** f16 bits [n] to f32 [n]. */
export function f16ToF32(bits: Uint16Array): Float32Array {
  const host = toHost(bits, 'f16', 'bits');
  const values = new Float32Array(host.length);
  for (let i = 0; i < host.length; i++) {
    const half = host[i] as number;
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) values[i] = fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    else values[i] = sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
  }
  return values;
}

/** f32 [n] to f16 bits [n]; past the largest finite value (65504 and half a step) it is infinity. */
export function f32ToF16(values: Float32Array): Uint16Array {
  const words = wordsOf(values);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = narrow(words[i] as number);
  return bits;
}

function narrow(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13);
  if (magnitude < 0x33000000) return sign; // below half of the smallest subnormal
  // A subnormal counts units of 2⁻²⁴: shift the 24-bit significand and round half to even.
  const shift = 126 - (magnitude >> 23);
  const significand = (magnitude & 0x7fffff) | 0x800000;
  const kept = significand >> shift;
  const rest = significand & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return sign | (kept + (rest > half || (rest === half && kept & 1) ? 1 : 0));
}

function wordsOf(values: Float32Array): Uint32Array {
  toHost(values, 'f32', 'values');
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}
