/** Writes a safetensors file tensor by tensor: beside the final name, in any order, renamed when it is complete and on disk. */
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { show } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { bytesView, join } from './bytes.ts';
import { unwritable } from './files.ts';
import { dtypeBits, isDtype, isSize, maximumHeaderBytes, type SafetensorsDtype, tensorBytes } from './safetensors.ts';

export interface WriterEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

interface Slot {
  readonly begin: number;
  readonly bytes: number;
  state: 'waiting' | 'writing' | 'written';
}

/** Node takes at most 2 GiB a call; smaller pieces also let an error come sooner. */
const pieceBytes = 64 * 1024 * 1024;

/**
 * A safetensors file in the making. Everything goes to `PATH.partial`; {@link finish} puts it on disk and renames it. After any
 * failure the partial file is gone and further calls throw DISPOSED.
 */
export class SafetensorsWriter {
  readonly path: string;
  /** Bytes of the whole file. */
  readonly bytes: number;
  readonly #handle: FileHandle;
  readonly #slots: ReadonlyMap<string, Slot>;
  #state: 'open' | 'finished' | 'failed' = 'open';

  private constructor(path: string, handle: FileHandle, slots: ReadonlyMap<string, Slot>, bytes: number) {
    this.path = path;
    this.#handle = handle;
    this.#slots = slots;
    this.bytes = bytes;
  }

  /**
   * Starts a file that will hold exactly `entries`. Data is laid out by falling element size, then as declared, so that
   * every element is aligned in the file; the header is padded to 8 bytes.
   *
   * Rejects with INVALID_ARGUMENT and FILE_UNWRITABLE.
   */
  static async create(
    path: string,
    entries: readonly WriterEntry[],
    metadata: Readonly<Record<string, string>> = {},
  ): Promise<SafetensorsWriter> {
    const { head, slots, bytes } = layout(entries, metadata);
    let handle: FileHandle | undefined;
    try {
      // A leftover may be a link to somewhere else: remove it, then insist on a new file.
      await rm(`${path}.partial`, { force: true });
      handle = await open(`${path}.partial`, 'wx', 0o644);
      const writer = new SafetensorsWriter(path, handle, slots, bytes);
      await writer.#put(head, 0);
      return writer;
    } catch (cause) {
      if (handle) {
        await handle.close().catch(() => undefined);
        await rm(`${path}.partial`, { force: true }).catch(() => undefined);
      }
      throw unwritable(path, cause);
    }
  }

  /**
   * Writes a tensor's bytes; any view of exactly its size, not to be changed until the promise resolves. Calls may overlap.
   *
   * Rejects with CHECKPOINT_TENSOR_UNKNOWN (not declared), INVALID_ARGUMENT (written already, or another size), DISPOSED,
   * FILE_UNWRITABLE (the disk is full, say; the partial file is removed).
   */
  async write(name: string, data: ArrayBufferView): Promise<void> {
    this.#check();
    const slot = this.#slots.get(name);
    if (!slot) {
      throw new MoeError('CHECKPOINT_TENSOR_UNKNOWN', {
        argument: name,
        expected: `a tensor declared for ${this.path}`,
        received: 'another',
      });
    }
    if (slot.state !== 'waiting') {
      throw new MoeError('INVALID_ARGUMENT', {
        argument: name,
        expected: 'one write a tensor',
        received: 'a second one',
      });
    }
    const view = bytesView(data, name);
    if (view.length !== slot.bytes) {
      throw new MoeError('INVALID_ARGUMENT', {
        argument: name,
        expected: `${slot.bytes} bytes`,
        received: `${view.length}`,
      });
    }
    slot.state = 'writing';
    try {
      await this.#put(view, slot.begin);
    } catch (cause) {
      await this.discard();
      throw unwritable(this.path, cause);
    }
    slot.state = 'written';
  }

  /**
   * Flushes the file to disk and gives it its name. Resolves to its bytes.
   *
   * Rejects with INVALID_ARGUMENT (a tensor is missing; the writer stays usable), DISPOSED, FILE_UNWRITABLE.
   */
  async finish(): Promise<number> {
    this.#check();
    for (const [name, slot] of this.#slots) {
      if (slot.state !== 'written') {
        throw new MoeError('INVALID_ARGUMENT', {
          argument: name,
          expected: 'every declared tensor written',
          received: slot.state,
        });
      }
    }
    this.#state = 'finished';
    try {
      await this.#handle.sync();
      await this.#handle.close();
      await rename(`${this.path}.partial`, this.path);
      await syncFolder(dirname(this.path));
    } catch (cause) {
      this.#state = 'open';
      await this.discard();
      throw unwritable(this.path, cause);
    }
    return this.bytes;
  }

  /** Gives up: removes the partial file. Does nothing after `finish` or a failure. */
  async discard(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'failed';
    await this.#handle.close().catch(() => undefined);
    await rm(`${this.path}.partial`, { force: true }).catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.discard();
  }

  #check(): void {
    if (this.#state !== 'open') {
      throw new MoeError('DISPOSED', {
        argument: this.path,
        expected: 'an open writer',
        received: `a ${this.#state} one`,
      });
    }
  }

  async #put(data: Uint8Array, begin: number): Promise<void> {
    let done = 0;
    while (done < data.length) {
      const length = Math.min(pieceBytes, data.length - done);
      done += (await this.#handle.write(data, done, length, begin + done)).bytesWritten;
    }
  }
}

/** Puts a folder's entries on disk: without it a rename may not survive a power cut. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function layout(
  entries: readonly WriterEntry[],
  metadata: Readonly<Record<string, string>>,
): { head: Uint8Array; slots: Map<string, Slot>; bytes: number } {
  const refuse = (argument: string, expected: string, received: unknown): MoeError =>
    new MoeError('INVALID_ARGUMENT', { argument, expected, received: show(received) });
  const items: string[] = [];
  for (const [name, text] of Object.entries(metadata)) {
    if (typeof text !== 'string') throw refuse(`metadata.${name}`, 'a string', text);
  }
  if (Object.keys(metadata).length > 0) items.push(`"__metadata__":${JSON.stringify(metadata)}`);
  const offsets = new Map<string, { begin: number; bytes: number }>();
  let end = 0;
  for (const { name, dtype, shape } of entries) {
    if (typeof name !== 'string' || name === '__metadata__' || /\p{Surrogate}/u.test(name))
      throw refuse('name', 'a tensor name', name);
    if (!isDtype(dtype)) throw refuse(name, 'a dtype', dtype);
    if (!Array.isArray(shape) || !shape.every(isSize)) throw refuse(name, 'a shape of sizes', shape);
    const bytes = tensorBytes(dtype, shape);
    if (bytes === undefined) throw refuse(name, 'a whole, representable number of bytes', shape);
    if (offsets.has(name)) throw refuse(name, 'every name once', 'it twice');
    offsets.set(name, { begin: 0, bytes });
  }
  for (const { name, dtype, shape } of entries.toSorted((a, b) => dtypeBits[b.dtype] - dtypeBits[a.dtype])) {
    const { bytes } = offsets.get(name) as { bytes: number };
    offsets.set(name, { begin: end, bytes });
    items.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [end, end + bytes] })}`);
    end += bytes;
  }
  if (!Number.isSafeInteger(end)) throw refuse('entries', 'a representable number of bytes', end);
  const body = new TextEncoder().encode(`{${items.join(',')}}`);
  const padding = new Uint8Array((8 - (body.length % 8)) % 8).fill(0x20);
  if (body.length + padding.length > maximumHeaderBytes) {
    throw refuse('entries', `a header of at most ${maximumHeaderBytes} bytes`, body.length);
  }
  const prefix = new DataView(new ArrayBuffer(8));
  prefix.setBigUint64(0, BigInt(body.length + padding.length), true);
  const head = join(prefix, body, padding);
  const slots = new Map<string, Slot>();
  for (const [name, { begin, bytes }] of offsets) {
    slots.set(name, { begin: head.length + begin, bytes, state: 'waiting' });
  }
  return { head, slots, bytes: head.length + end };
}
