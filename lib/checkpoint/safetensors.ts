/**
 * The safetensors container: parses and checks a header before anything trusts it.
 *
 *     bytes 0…7      header length n, u64 little-endian
 *     bytes 8…8+n-1  JSON: { "__metadata__"?: { name: string }, "<tensor>": { dtype, shape, data_offsets: [begin, end] } }
 *     bytes 8+n…     the data; data_offsets count from here, without holes or overlaps, to the end of the file
 *
 * Source: the format section of the safetensors README (huggingface/safetensors).
 */
import { show } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { cut, join } from './bytes.ts';
import { readStart } from './files.ts';
import { isObject, parseObject } from './json.ts';

/** Bits of an element; the sub-byte types are packed. */
export const dtypeBits = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type SafetensorsDtype = keyof typeof dtypeBits;

/** Where a tensor lies. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Path of the file. */
  readonly file: string;
  /** Byte offsets in the file: begin inclusive, end exclusive. */
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  /** Bytes before the data. */
  readonly dataBegin: number;
  /** In the order of the header. */
  readonly entries: readonly TensorEntry[];
  readonly metadata: ReadonlyMap<string, string>;
}

/** The limit of the reference implementation. */
export const maximumHeaderBytes = 100_000_000;
const prefixBytes = 8;

/**
 * Bytes of prefix and header together, from the first 8 bytes of a file of `fileBytes` bytes.
 *
 * Throws CHECKPOINT_MALFORMED where the length does not fit.
 */
function headerEnd(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.length < prefixBytes || fileBytes < prefixBytes) {
    throw malformed(file, 'at least 8 bytes', `${Math.min(prefix.length, fileBytes)}`);
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, prefixBytes).getBigUint64(0, true);
  if (length > BigInt(maximumHeaderBytes))
    throw malformed(file, `a header of at most ${maximumHeaderBytes} bytes`, `${length}`);
  const end = prefixBytes + Number(length);
  if (end > fileBytes)
    throw malformed(file, `a header that ends inside the ${fileBytes} bytes of the file`, `its end at ${end}`);
  return end;
}

/**
 * The header of a file of `fileBytes` bytes that starts with `head` (prefix and header; more does no harm).
 *
 * Throws CHECKPOINT_MALFORMED with the tensor or file at fault.
 */
export function parseHeader(head: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  const dataBegin = headerEnd(head, fileBytes, file);
  if (head.length < dataBegin) throw malformed(file, `${dataBegin} bytes of header`, `${head.length}`);
  const [, body] = cut(head, prefixBytes, dataBegin) as [Uint8Array, Uint8Array, Uint8Array];
  if (body[0] !== 0x7b)
    throw malformed(file, "a header that starts with '{'", body.length === 0 ? 'an empty one' : `byte ${body[0]}`);
  const header = parseObject(body, 'CHECKPOINT_MALFORMED', file);
  const entries: TensorEntry[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') metadata = parseMetadata(value, file);
    else entries.push(parseEntry(name, value, dataBegin, fileBytes, file));
  }
  checkCover(entries, dataBegin, fileBytes, file);
  return { dataBegin, entries, metadata };
}

/** Reads and parses a file's header. Throws CHECKPOINT_MALFORMED, FILE_UNREADABLE. */
export async function readHeader(file: string, fileBytes: number): Promise<SafetensorsHeader> {
  const first = await readStart(file, Math.min(fileBytes, 65_536));
  const end = headerEnd(first, fileBytes, file);
  if (end <= first.length) return parseHeader(first, fileBytes, file);
  return parseHeader(join(first, await readStart(file, end - first.length, first.length)), fileBytes, file);
}

/** Elements of a shape; undefined where the product is not a safe integer. */
export function elementsOf(shape: readonly number[]): number | undefined {
  if (shape.includes(0)) return 0;
  let elements = 1;
  for (const size of shape) {
    elements *= size;
    if (!Number.isSafeInteger(elements)) return undefined;
  }
  return elements;
}

/** Bytes of a tensor; undefined where they are not a whole number or not a safe integer. */
export function tensorBytes(dtype: SafetensorsDtype, shape: readonly number[]): number | undefined {
  const elements = elementsOf(shape);
  if (elements === undefined) return undefined;
  const bits = elements * dtypeBits[dtype];
  return Number.isSafeInteger(bits) && bits % 8 === 0 ? bits / 8 : undefined;
}

export function isDtype(value: unknown): value is SafetensorsDtype {
  return typeof value === 'string' && Object.hasOwn(dtypeBits, value);
}

/** True for 0, 1, 2, … up to 2^53 - 1; -0 is none of them. */
export function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && !Object.is(value, -0);
}

function malformed(argument: string, expected: string, received: string): MoeError {
  return new MoeError('CHECKPOINT_MALFORMED', { argument, expected, received });
}

function parseMetadata(value: unknown, file: string): ReadonlyMap<string, string> {
  const metadata = new Map<string, string>();
  if (!isObject(value)) throw malformed(`${file}: __metadata__`, 'an object', show(value));
  for (const [name, text] of Object.entries(value)) {
    if (typeof text !== 'string') throw malformed(`${file}: __metadata__.${name}`, 'a string', show(text));
    metadata.set(name, text);
  }
  return metadata;
}

function parseEntry(name: string, value: unknown, dataBegin: number, fileBytes: number, file: string): TensorEntry {
  const refuse = (expected: string, received: unknown): MoeError =>
    malformed(`${file}: ${name}`, expected, show(received));
  if (!isObject(value)) throw refuse('an object', value);
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) throw refuse(`a dtype of ${Object.keys(dtypeBits).join(', ')}`, dtype);
  if (!Array.isArray(shape) || !shape.every(isSize)) throw refuse('a shape of sizes', shape);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    throw refuse('data_offsets [begin, end]', offsets);
  const [begin, end] = offsets as [number, number];
  const dataBytes = fileBytes - dataBegin;
  if (begin > end || end > dataBytes) throw refuse(`data_offsets inside the ${dataBytes} bytes of data`, offsets);
  const bytes = tensorBytes(dtype, shape);
  if (bytes !== end - begin) {
    throw refuse(
      `${bytes ?? 'a representable number of'} bytes for ${dtype} [${shape.slice(0, 8).join(', ')}]`,
      end - begin,
    );
  }
  return Object.freeze({
    name,
    dtype,
    shape: Object.freeze(shape),
    file,
    begin: dataBegin + begin,
    end: dataBegin + end,
  });
}

/** The tensors must lie one behind the other from the first byte of data to the last. */
function checkCover(entries: readonly TensorEntry[], dataBegin: number, fileBytes: number, file: string): void {
  let at = dataBegin;
  for (const entry of entries.toSorted((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (entry.begin !== at) {
      throw malformed(
        `${file}: ${entry.name}`,
        `data at byte ${at}, where the tensor before it ends`,
        `${entry.begin < at ? 'an overlap' : 'a hole'} at byte ${entry.begin}`,
      );
    }
    at = entry.end;
  }
  if (at !== fileBytes)
    throw malformed(file, `data up to the end of the file at byte ${fileBytes}`, `its end at ${at}`);
}
