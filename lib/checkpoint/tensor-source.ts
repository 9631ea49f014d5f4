/** Where tensors come from: a checkpoint, or memory. */
import type { NativeBytes } from '../addon.ts';
import { MoeError } from '../errors.ts';
import { bf16ToF32, f16ToF32 } from '../tensor/half.ts';
import type { StoredArray } from './checkpoint.ts';
import type { SafetensorsDtype } from './safetensors.ts';
import type { WriterEntry } from './writer.ts';

export interface TensorSource {
  has(name: string): boolean;
  /** Throws CHECKPOINT_TENSOR_MISSING. */
  entry(name: string): WriterEntry;
  bytesOf(name: string): NativeBytes;
  /** The tensor as stored, row-major. */
  read(name: string): Promise<StoredArray>;
  /** In f32. Rejects with DTYPE_MISMATCH where it is not F32, F16, BF16 or F64. */
  readF32(name: string): Promise<Float32Array>;
}

/** A tensor that is about to be stored. */
export interface StoredTensor extends WriterEntry {
  readonly data: Exclude<StoredArray, Int16Array | Uint32Array | BigInt64Array | BigUint64Array>;
}

/** Tensors in memory, as a checkpoint would hold them. */
export class MemoryTensors implements TensorSource {
  readonly #tensors: ReadonlyMap<string, StoredTensor>;

  constructor(tensors: Iterable<StoredTensor>) {
    this.#tensors = new Map(Array.from(tensors, (tensor) => [tensor.name, tensor]));
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  entry(name: string): StoredTensor {
    const tensor = this.#tensors.get(name);
    if (tensor) return tensor;
    throw new MoeError('CHECKPOINT_TENSOR_MISSING', {
      argument: name,
      expected: 'a tensor in memory',
      received: `${this.#tensors.size} without it`,
    });
  }

  bytesOf(name: string): NativeBytes {
    return this.entry(name).data;
  }

  async read(name: string): Promise<StoredArray> {
    return this.entry(name).data;
  }

  async readF32(name: string): Promise<Float32Array> {
    const { dtype, data } = this.entry(name);
    return widen(name, dtype, data);
  }
}

export function isFloat(dtype: SafetensorsDtype): boolean {
  return dtype === 'F32' || dtype === 'F16' || dtype === 'BF16' || dtype === 'F64';
}

/** Stored floats in f32. Throws DTYPE_MISMATCH. */
export function widen(name: string, dtype: SafetensorsDtype, stored: StoredArray): Float32Array {
  if (dtype === 'F32') return stored as Float32Array;
  if (dtype === 'F16') return f16ToF32(stored as Uint16Array);
  if (dtype === 'BF16') return bf16ToF32(stored as Uint16Array);
  if (dtype === 'F64') return Float32Array.from(stored as Float64Array);
  throw new MoeError('DTYPE_MISMATCH', { argument: name, expected: 'F32, F16, BF16 or F64', received: dtype });
}
