/** A Hugging Face model folder on the host: config.json, safetensors (one file or shards), tokenizer. */
import { join } from 'node:path';
import { addon, type HostArray, type NativeFile } from '../addon.ts';
import { invalid, requireObject, requireSignal, show } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { exists, readWhole, sizeOf } from './files.ts';
import { parseObject } from './json.ts';
import { readHeader, type SafetensorsDtype, type TensorEntry } from './safetensors.ts';
import { checkShard, indexName, maximumIndexBytes, parseIndex, type ShardMap, singleName } from './shard-index.ts';
import { isFloat, type TensorSource, widen } from './tensor-source.ts';
import { Tokenizer } from './tokenizer.ts';

export type { SafetensorsDtype, TensorEntry } from './safetensors.ts';

/** A tensor as stored: f16 and bf16 as Uint16Array, bool, 8-bit floats, packed and complex types as bytes. */
export type StoredArray = HostArray | Int16Array | Uint32Array | BigInt64Array | BigUint64Array;

/** A config.json is no longer. */
export const maximumConfigBytes = 10_000_000;
/** Bytes copied between two turns of the event loop: a few milliseconds from memory. */
const copyBytes = 16 * 1024 * 1024;

const arrays: Record<SafetensorsDtype, new (buffer: ArrayBuffer) => StoredArray> = {
  BOOL: Uint8Array,
  U8: Uint8Array,
  I8: Int8Array,
  F8_E5M2: Uint8Array,
  F8_E4M3: Uint8Array,
  F8_E8M0: Uint8Array,
  F4: Uint8Array,
  F6_E2M3: Uint8Array,
  F6_E3M2: Uint8Array,
  I16: Int16Array,
  U16: Uint16Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I32: Int32Array,
  U32: Uint32Array,
  F32: Float32Array,
  C64: Uint8Array,
  F64: Float64Array,
  I64: BigInt64Array,
  U64: BigUint64Array,
};

interface Shard {
  readonly path: string;
  readonly bytes: number;
}

/**
 * An open checkpoint. Files are mapped at first use and stay mapped until `close`; they must not be changed meanwhile.
 *
 * Methods throw DISPOSED after `close`.
 */
export class Checkpoint implements TensorSource {
  readonly folder: string;
  /** config.json as it stands. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** Bytes on disk of the safetensors files. */
  readonly bytes: number;
  readonly #shards: ReadonlyMap<string, Shard>;
  readonly #files = new Map<string, NativeFile>();
  #tokenizer: Promise<Tokenizer> | undefined;
  #closed = false;

  /** Only for what `open` made: not for a proxy or an object with the prototype. */
  static [Symbol.hasInstance](value: unknown): value is Checkpoint {
    return typeof value === 'object' && value !== null && #shards in value;
  }

  private constructor(
    folder: string,
    config: Record<string, unknown>,
    tensors: ReadonlyMap<string, TensorEntry>,
    shards: readonly Shard[],
  ) {
    this.folder = folder;
    this.config = config;
    this.tensors = tensors;
    this.bytes = shards.reduce((sum, shard) => sum + shard.bytes, 0);
    this.#shards = new Map(shards.map((shard) => [shard.path, shard]));
  }

  /**
   * Reads config.json and the headers of `model.safetensors`, or of the shards of `model.safetensors.index.json`, and checks
   * both completely. No tensor is read.
   *
   * Rejects with INVALID_ARGUMENT, FILE_UNREADABLE, CONFIG_INVALID, CHECKPOINT_MALFORMED, or the signal's reason.
   */
  static async open(folder: string, options: { signal?: AbortSignal | undefined } = {}): Promise<Checkpoint> {
    if (typeof folder !== 'string' || folder === '' || folder.includes('\0')) {
      throw invalid('folder', 'a path', folder);
    }
    const { signal } = requireObject(options);
    requireSignal(signal);
    const configPath = join(folder, 'config.json');
    const config = parseObject(await readWhole(configPath, maximumConfigBytes), 'CONFIG_INVALID', configPath);
    const index = await shardMap(folder);
    const tensors = new Map<string, TensorEntry>();
    const shards: Shard[] = [];
    for (const [name, names] of index) {
      signal?.throwIfAborted();
      const path = join(folder, name);
      const bytes = await sizeOf(path);
      if (bytes === undefined) {
        throw new MoeError('FILE_UNREADABLE', {
          argument: path,
          expected: 'the file that the index names',
          received: 'ENOENT',
        });
      }
      const header = await readHeader(path, bytes);
      if (names) checkShard(header, names, path);
      for (const entry of header.entries) tensors.set(entry.name, entry);
      shards.push({ path, bytes });
    }
    signal?.throwIfAborted();
    return new Checkpoint(folder, config, tensors, shards);
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /** Throws CHECKPOINT_TENSOR_MISSING. */
  entry(name: string): TensorEntry {
    const entry = this.tensors.get(name);
    if (entry) return entry;
    throw new MoeError('CHECKPOINT_TENSOR_MISSING', {
      argument: typeof name === 'string' ? name : show(name),
      expected: `a tensor of ${this.folder}`,
      received: `${this.tensors.size} tensors without it`,
    });
  }

  /**
   * The tensor as stored, row-major. Copies in pieces, so that other work of the event loop comes between.
   *
   * Rejects with CHECKPOINT_TENSOR_MISSING, OUT_OF_MEMORY, FILE_UNREADABLE, CHECKPOINT_MALFORMED (file changed), DISPOSED.
   */
  async read(name: string): Promise<StoredArray> {
    const { dtype } = this.entry(name);
    const { file, offset, bytes } = this.bytesOf(name);
    const buffer = allocate(bytes, name);
    for (let at = 0; at < bytes; at += copyBytes) {
      if (at > 0) await new Promise(setImmediate);
      this.#check();
      file.read(offset + at, new Uint8Array(buffer, at, Math.min(copyBytes, bytes - at)));
    }
    return storedArray(dtype, buffer);
  }

  /** The tensor in f32, row-major. Rejects as {@link read}, and with DTYPE_MISMATCH where it is not F32, F16, BF16 or F64. */
  async readF32(name: string): Promise<Float32Array> {
    const { dtype } = this.entry(name);
    if (isFloat(dtype)) return widen(name, dtype, await this.read(name));
    throw new MoeError('DTYPE_MISMATCH', { argument: name, expected: 'F32, F16, BF16 or F64', received: dtype });
  }

  /** As {@link readF32}, on the calling thread at once: milliseconds a matrix from memory, more from a disk. Throws what that rejects with. */
  readF32Now(name: string): Float32Array {
    const { dtype } = this.entry(name);
    const { file, offset, bytes } = this.bytesOf(name);
    const buffer = allocate(bytes, name);
    file.read(offset, new Uint8Array(buffer));
    return widen(name, dtype, storedArray(dtype, buffer));
  }

  /**
   * Where the tensor lies in its mapped file; valid until `close`.
   *
   * Throws CHECKPOINT_TENSOR_MISSING, FILE_UNREADABLE, CHECKPOINT_MALFORMED (file changed since `open`), ADDON_MISSING, DISPOSED.
   */
  bytesOf(name: string): { file: NativeFile; offset: number; bytes: number } {
    this.#check();
    const { file, begin, end } = this.entry(name);
    return { file: this.#mapped(file), offset: begin, bytes: end - begin };
  }

  /** The folder's tokenizer, loaded at first use. Rejects with TOKENIZER_INVALID, DISPOSED. */
  async tokenizer(): Promise<Tokenizer> {
    this.#check();
    this.#tokenizer ??= Tokenizer.load(this.folder, this.config);
    return this.#tokenizer;
  }

  /** Unmaps the files. Further calls do nothing. */
  close(): void {
    this.#closed = true;
    for (const file of this.#files.values()) file.dispose();
    this.#files.clear();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #check(): void {
    if (this.#closed)
      throw new MoeError('DISPOSED', {
        argument: this.folder,
        expected: 'an open checkpoint',
        received: 'a closed one',
      });
  }

  #mapped(path: string): NativeFile {
    const known = this.#files.get(path);
    if (known) return known;
    const file = addon().openFile(path);
    const bytes = this.#shards.get(path)?.bytes;
    if (file.bytes !== bytes) {
      const received = `${file.bytes}`;
      file.dispose();
      throw new MoeError('CHECKPOINT_MALFORMED', {
        argument: path,
        expected: `${bytes} bytes as when it was opened`,
        received,
      });
    }
    this.#files.set(path, file);
    return file;
  }
}

/** Bytes of a tensor as the array of its dtype. */
export function storedArray(dtype: SafetensorsDtype, bytes: ArrayBuffer): StoredArray {
  return new arrays[dtype](bytes);
}

/** File name → tensors that it must hold (undefined: whatever it holds). A single file goes first, as in transformers. */
async function shardMap(folder: string): Promise<ShardMap | ReadonlyMap<string, undefined>> {
  if (await exists(join(folder, singleName))) return new Map([[singleName, undefined]]);
  const path = join(folder, indexName);
  if (await exists(path)) return parseIndex(await readWhole(path, maximumIndexBytes), path);
  throw new MoeError('FILE_UNREADABLE', {
    argument: folder,
    expected: `${singleName} or ${indexName}`,
    received: 'neither',
  });
}

function allocate(bytes: number, name: string): ArrayBuffer {
  try {
    return new ArrayBuffer(bytes);
  } catch (cause) {
    throw new MoeError('OUT_OF_MEMORY', {
      argument: name,
      expected: 'an array that fits in memory',
      received: `${bytes} bytes`,
      cause,
    });
  }
}
