import { addon, type NativeBytes, type NativeFile } from '../addon.ts';
import { MoeError } from '../errors.ts';
import { type StoredArray, storedArray } from './checkpoint.ts';
import { sizeOf, unreadable } from './files.ts';
import { readHeader, type TensorEntry } from './safetensors.ts';
import { type TensorSource, widen } from './tensor-source.ts';

/** One safetensors file, mapped, without a model folder around it. */
export class SafetensorsFile implements TensorSource {
  readonly path: string;
  readonly #tensors: ReadonlyMap<string, TensorEntry>;
  readonly #file: NativeFile;

  private constructor(path: string, tensors: ReadonlyMap<string, TensorEntry>, file: NativeFile) {
    this.path = path;
    this.#tensors = tensors;
    this.#file = file;
  }

  /** Rejects with FILE_UNREADABLE, CHECKPOINT_MALFORMED. */
  static async open(path: string): Promise<SafetensorsFile> {
    const bytes = await sizeOf(path);
    if (bytes === undefined) throw unreadable(path, 'no such file');
    const { entries } = await readHeader(path, bytes);
    return new SafetensorsFile(path, new Map(entries.map((entry) => [entry.name, entry])), addon().openFile(path));
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  entry(name: string): TensorEntry {
    const entry = this.#tensors.get(name);
    if (entry) return entry;
    throw new MoeError('CHECKPOINT_TENSOR_MISSING', {
      argument: name,
      expected: `a tensor of ${this.path}`,
      received: `${this.#tensors.size} without it`,
    });
  }

  bytesOf(name: string): NativeBytes {
    const { begin, end } = this.entry(name);
    return { file: this.#file, offset: begin, bytes: end - begin };
  }

  async read(name: string): Promise<StoredArray> {
    return this.#read(name);
  }

  async readF32(name: string): Promise<Float32Array> {
    return this.readF32Now(name);
  }

  /** As {@link readF32}, on the calling thread at once. */
  readF32Now(name: string): Float32Array {
    return widen(name, this.entry(name).dtype, this.#read(name));
  }

  #read(name: string): StoredArray {
    const { dtype, begin, end } = this.entry(name);
    const buffer = new ArrayBuffer(end - begin);
    this.#file.read(begin, new Uint8Array(buffer));
    return storedArray(dtype, buffer);
  }

  [Symbol.dispose](): void {
    this.#file.dispose();
  }
}
