/** JSON from files that nobody checked: strict UTF-8, one object, no name twice, bounded depth. */
import { show } from '../arguments.ts';
import { type ErrorCode, MoeError } from '../errors.ts';

const maximumDepth = 100;
const quote = 0x22;
const backslash = 0x5c;

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * The JSON object that the bytes hold. JSON.parse keeps the last of two equal names, so that two readers may see two
 * different files; here a name that occurs twice in one object is an error.
 *
 * Throws `code` with `argument` as its subject. `duplicates: false` leaves the check out.
 */
export function parseObject(
  bytes: Uint8Array,
  code: ErrorCode,
  argument: string,
  options: { duplicates?: boolean } = {},
): Record<string, unknown> {
  const refuse = (expected: string, received: string, cause?: unknown): MoeError =>
    new MoeError(code, { argument, expected, received, cause });
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw refuse('UTF-8 text', 'other bytes', cause);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw refuse('JSON', cause instanceof Error ? cause.message : String(cause), cause);
  }
  if (!isObject(value)) throw refuse('a JSON object', show(value));
  if (options.duplicates !== false) {
    const fault = duplicateName(text);
    if (fault !== undefined) throw refuse('every name once and shallow nesting', fault);
  }
  return value;
}

/** What is wrong with the names of a text that JSON.parse has taken; undefined where nothing is. */
function duplicateName(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = [];
  let names: Set<string> | undefined;
  let nameNext = false;
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case quote: {
        const end = stringEnd(text, at);
        if (nameNext && names !== undefined) {
          const name = JSON.parse(text.slice(at, end + 1)) as string;
          if (names.has(name)) return `${show(name)} twice`;
          names.add(name);
          nameNext = false;
        }
        at = end;
        break;
      }
      case 0x7b: // {
      case 0x5b: // [
        open.push(names);
        if (open.length > maximumDepth) return `more than ${maximumDepth} levels`;
        nameNext = text.charCodeAt(at) === 0x7b;
        names = nameNext ? new Set() : undefined;
        break;
      case 0x7d: // }
      case 0x5d: // ]
        names = open.pop();
        nameNext = false;
        break;
      case 0x2c: // ,
        nameNext = names !== undefined;
        break;
    }
  }
  return undefined;
}

/** Index of the quote that ends the string that starts at `start`. */
function stringEnd(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end !== -1; end = text.indexOf('"', end + 1)) {
    let before = end - 1;
    while (text.charCodeAt(before) === backslash) before--;
    if ((end - before) % 2 === 1) return end;
  }
  return text.length;
}
