/**
 * Cuts and joins small byte ranges (file headers) with typed-array-utils, behind checks.
 *
 * The library takes a SharedArrayBuffer or a buffer of another realm for a view and silently gives an empty array, and its
 * split clamps out-of-range cuts. Here only fixed views of this realm over live, unshared memory reach it. Not for tensors: it is slow there.
 */
import { types } from 'node:util';
import { concatUint8Arrays, splitUint8Array } from 'typed-array-utils';
import { MoeError } from '../errors.ts';

/**
 * The bytes of a buffer or view, without a copy.
 *
 * Throws INVALID_ARGUMENT for anything else, for shared memory and for a detached buffer.
 */
export function bytesView(source: ArrayBufferLike | ArrayBufferView, argument = 'bytes'): Uint8Array<ArrayBuffer> {
  const refuse = (received: string, cause?: unknown): MoeError =>
    new MoeError('INVALID_ARGUMENT', { argument, expected: 'an ArrayBuffer or a view of one', received, cause });
  const isView = ArrayBuffer.isView(source);
  if (!isView && !types.isAnyArrayBuffer(source)) throw refuse(source === null ? 'null' : typeof source);
  const buffer = isView ? source.buffer : source;
  if (!types.isArrayBuffer(buffer)) throw refuse('shared memory');
  try {
    // Throws a TypeError where the buffer is detached; a view of it would only look empty.
    const whole = new Uint8Array(buffer);
    return isView ? new Uint8Array(buffer, source.byteOffset, source.byteLength) : whole;
  } catch (cause) {
    throw refuse('a detached buffer', cause);
  }
}

/**
 * Views of `source` between rising byte offsets: `cuts.length + 1` pieces that share its memory.
 *
 * Throws INVALID_ARGUMENT where a cut is not an integer, falls, or lies beyond the end.
 */
export function cut(source: ArrayBufferLike | ArrayBufferView, ...cuts: readonly number[]): Uint8Array[] {
  const bytes = bytesView(source);
  let previous = 0;
  for (const at of cuts) {
    if (!Number.isSafeInteger(at) || at < previous || at > bytes.length) {
      throw new MoeError('INVALID_ARGUMENT', {
        argument: 'cuts',
        expected: `rising offsets up to ${bytes.length}`,
        received: cuts.join(', '),
      });
    }
    previous = at;
  }
  return splitUint8Array(bytes, ...cuts);
}

/** One new array of all the pieces' bytes. Throws INVALID_ARGUMENT as {@link bytesView}. */
export function join(...pieces: readonly (ArrayBufferLike | ArrayBufferView)[]): Uint8Array {
  return concatUint8Arrays(...pieces.map((piece, index) => bytesView(piece, `pieces[${index}]`)));
}
