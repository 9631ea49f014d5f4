import { readStart, sizeOf, unreadable } from '../../checkpoint/files.ts';
import { readHeader, type SafetensorsDtype, type TensorEntry } from '../../checkpoint/safetensors.ts';
import { readText } from '../../checkpoint/text-file.ts';
import type { Tokenizer } from '../../checkpoint/tokenizer.ts';
import { MoeError } from '../../errors.ts';

/** Tokens of a window cut from a text, or the model's context where that is shorter. Each window is a text of its own. */
export const windowTokens = 256;

const idArrays: Partial<Record<SafetensorsDtype, (bytes: ArrayBuffer) => ArrayLike<number | bigint>>> = {
  U8: (bytes) => new Uint8Array(bytes),
  I16: (bytes) => new Int16Array(bytes),
  U16: (bytes) => new Uint16Array(bytes),
  I32: (bytes) => new Int32Array(bytes),
  U32: (bytes) => new Uint32Array(bytes),
  I64: (bytes) => new BigInt64Array(bytes),
};

export interface WindowOptions {
  /** Needed, and so loaded, for text files only. */
  readonly tokenizer: () => Promise<Tokenizer>;
  /** At most so many tokens: whole windows, drawn with `seed`; undefined takes all. */
  readonly limit?: number | undefined;
  /** Default 0. */
  readonly seed?: number | undefined;
  /** Ids that the model has. */
  readonly vocabulary: number;
  /** Tokens that the model takes at once. */
  readonly context: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Calibration windows of token ids. A text file (`.gz` is unpacked) is encoded whole and cut into windows of {@link windowTokens}, a last
 * partial one is dropped; a `.safetensors` file holds ids as [windows, tokens] in a tensor named `calibration`, or in its only one.
 *
 * @throws MoeError FILE_UNREADABLE, CHECKPOINT_MALFORMED, TOKENIZER_INVALID; RECIPE_INVALID where a file has no full window, the limit leaves
 * none, or an id or a window does not fit the model
 */
export async function calibrationWindows(files: readonly string[], options: WindowOptions): Promise<Int32Array[]> {
  const { limit, seed = 0, context, signal } = options;
  const windows: Int32Array[] = [];
  for (const file of files) {
    signal?.throwIfAborted();
    const found = file.endsWith('.safetensors') ? await storedWindows(file, options) : await textWindows(file, options);
    for (const window of found) windows.push(window);
  }
  const chosen = limit === undefined ? windows : draw(windows, limit, seed);
  if (chosen.length === 0) {
    const tokens = windows.reduce((least, { length }) => Math.min(least, length), Math.min(windowTokens, context));
    const within = limit === undefined ? '' : `, and so a limit of at least ${tokens}`;
    refuse('calibrate', `at least one window of ${tokens} tokens${within}`, `${limit ?? 'no files'}`);
  }
  return chosen;
}

async function textWindows(file: string, { tokenizer, vocabulary, context }: WindowOptions): Promise<Int32Array[]> {
  const ids = checkedIds((await tokenizer()).encode(await readText(file)), file, vocabulary);
  const size = Math.min(windowTokens, context);
  const windows = cutWindows(ids, size);
  if (windows.length === 0) refuse(file, `a text of at least ${size} tokens`, `${ids.length}`);
  return windows;
}

async function storedWindows(file: string, { vocabulary, context }: WindowOptions): Promise<Int32Array[]> {
  const bytes = await sizeOf(file);
  if (bytes === undefined) throw unreadable(file, 'no such file');
  const { entries } = await readHeader(file, bytes);
  const entry = entries.find(({ name }) => name === 'calibration') ?? (entries.length === 1 ? entries[0] : undefined);
  const array = entry && idArrays[entry.dtype];
  if (!entry || !array || entry.shape.length !== 2) {
    const expected = `a tensor 'calibration' (or an only one) of ${Object.keys(idArrays).join(', ')} [windows, tokens]`;
    refuse(file, expected, entries.slice(0, 8).map(describe).join('; ') || 'no tensors');
  }
  const [windows = 0, tokens = 0] = entry.shape;
  if (windows < 1 || tokens < 1 || tokens > context) {
    refuse(file, `at least one window of 1 to ${context} tokens`, describe(entry));
  }
  const stored = await readStart(file, entry.end - entry.begin, entry.begin);
  return cutWindows(checkedIds(array(stored.slice().buffer), file, vocabulary), tokens);
}

function checkedIds(values: ArrayLike<number | bigint>, file: string, vocabulary: number): Int32Array {
  const ids = new Int32Array(values.length);
  for (let index = 0; index < ids.length; index++) {
    const id = Number(values[index]);
    if (!(id >= 0 && id < vocabulary)) refuse(file, `ids 0 … ${vocabulary - 1}`, `${id} at ${index}`);
    ids[index] = id;
  }
  return ids;
}

function cutWindows(ids: Int32Array, size: number): Int32Array[] {
  return Array.from({ length: Math.floor(ids.length / size) }, (_, i) => ids.subarray(i * size, (i + 1) * size));
}

function describe(entry: TensorEntry): string {
  return `${entry.name} ${entry.dtype} [${entry.shape.join(', ')}]`;
}

function refuse(argument: string, expected: string, received: string): never {
  throw new MoeError('RECIPE_INVALID', { argument, expected, received });
}

/** A seeded Fisher–Yates draw of windows until the limit is reached, back in their own order. */
function draw(windows: readonly Int32Array[], limit: number, seed: number): Int32Array[] {
  const order = windows.map((_, index) => index);
  let state = seed >>> 0;
  const random = (): number => {
    // Mulberry32: small, and the same on every machine.
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  for (let last = order.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [order[last], order[other]] = [order[other] as number, order[last] as number];
  }
  let tokens = 0;
  const chosen = order.filter((index) => {
    const fits = tokens + (windows[index] as Int32Array).length <= limit;
    if (fits) tokens += (windows[index] as Int32Array).length;
    return fits;
  });
  return chosen.sort((a, b) => a - b).map((index) => windows[index] as Int32Array);
}
