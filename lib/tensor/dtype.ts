/** Element types as JavaScript holds them: one table from the name to the typed array and the bytes of an element. */
import { types } from 'node:util';
import type { HostArray } from '../addon.ts';
import { show, viewName } from '../arguments.ts';
import { MoeError } from '../errors.ts';

/** f16 and bf16 travel as their bits in a `Uint16Array`; `f64` is for statistics, `u8` for opaque bytes. */
export type Dtype = 'f32' | 'f16' | 'bf16' | 'f64' | 'i32' | 'i8' | 'u8';

/** The array that holds each dtype on the host. */
export interface HostArrays {
  f32: Float32Array;
  f16: Uint16Array;
  bf16: Uint16Array;
  f64: Float64Array;
  i32: Int32Array;
  i8: Int8Array;
  u8: Uint8Array;
}

interface HostConstructor<A> {
  new (length: number): A;
  new (buffer: ArrayBuffer, byteOffset?: number, length?: number): A;
  readonly name: string;
  readonly BYTES_PER_ELEMENT: number;
}

const constructors: { readonly [D in Dtype]: HostConstructor<HostArrays[D]> } = {
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  f64: Float64Array,
  i32: Int32Array,
  i8: Int8Array,
  u8: Uint8Array,
};

/** Every dtype, in the order of the table. */
export const dtypes: readonly Dtype[] = Object.keys(constructors) as Dtype[];

/** Bytes of one element. Throws DTYPE_MISMATCH for a name that is none. */
export function dtypeBytes(dtype: Dtype): number {
  return hostConstructor(dtype).BYTES_PER_ELEMENT;
}

/** The typed array class of a dtype. Throws DTYPE_MISMATCH for a name that is none. */
export function hostConstructor<D extends Dtype>(dtype: D): HostConstructor<HostArrays[D]> {
  if (typeof dtype !== 'string' || !Object.hasOwn(constructors, dtype)) {
    throw new MoeError('DTYPE_MISMATCH', { argument: 'dtype', expected: dtypes.join(', '), received: show(dtype) });
  }
  return constructors[dtype];
}

/** A new zeroed host array of `length` elements. Throws DTYPE_MISMATCH. */
export function hostArray<D extends Dtype>(dtype: D, length: number): HostArrays[D] {
  return new (hostConstructor(dtype))(length);
}

/**
 * `data` as the array that the native side takes for `dtype`: the same object, or for a `Float16Array` its bits.
 * Throws DTYPE_MISMATCH for another type, INVALID_ARGUMENT as {@link requireHostMemory}.
 */
export function toHost<D extends Dtype>(data: HostArrays[D], dtype: D, argument: string): HostArrays[D] {
  const wanted = hostConstructor(dtype);
  // By name, as a typed array of another realm (a vm context, a test runner's sandbox) is of another class.
  const name = viewName(data);
  if (name !== wanted.name && !(dtype === 'f16' && name === 'Float16Array')) {
    throw new MoeError('DTYPE_MISMATCH', {
      argument,
      expected: `${wanted.name} (${dtype})`,
      received: name || show(data),
    });
  }
  requireHostMemory(data, argument);
  return name === wanted.name ? data : new wanted(data.buffer as ArrayBuffer, data.byteOffset, data.length);
}

/** Throws INVALID_ARGUMENT where `data` is detached, outside its resized buffer, or in a SharedArrayBuffer. */
export function requireHostMemory(data: HostArray, argument: string): void {
  const buffer = data.buffer;
  if (!(buffer instanceof ArrayBuffer) && !types.isArrayBuffer(buffer)) {
    throw new MoeError('INVALID_ARGUMENT', {
      argument,
      expected: 'a typed array over an ArrayBuffer',
      received: 'one over a SharedArrayBuffer',
    });
  }
  // An array that lost its memory looks like an empty one.
  if (data.length === 0 && isLost(data)) {
    throw new MoeError('INVALID_ARGUMENT', {
      argument,
      expected: 'a typed array with its memory',
      received: 'one that was detached, or resized away',
    });
  }
}

// Every method of a typed array throws where its buffer was detached or shrunk below it; Node 20 has no ArrayBuffer.detached.
function isLost(data: HostArray): boolean {
  try {
    Float32Array.prototype.at.call(data, 0);
    return false;
  } catch {
    return true;
  }
}
