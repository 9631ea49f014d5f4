/** What callers pass: checked, and shown in messages, whatever it is. Nothing here runs code of the value by accident. */
import { types } from 'node:util';
import { MoeError } from './errors.ts';

/** A value for an error message, cut to about 80 characters. */
export function show(value: unknown): string {
  const text = words(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function words(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'function') return 'a function';
  if (typeof value !== 'object' || value === null) return Object.is(value, -0) ? '-0' : String(value);
  if (types.isProxy(value)) return 'a proxy';
  if (Array.isArray(value)) {
    const items = value.slice(0, 8).map((item) => (typeof item === 'object' ? typeof item : String(item)));
    return `a list of ${value.length}: ${items.join(',')}`;
  }
  return ArrayBuffer.isView(value) ? viewName(value) : 'an object';
}

const tagOf = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag)
  ?.get as () => string | undefined;

/** 'Float32Array' for one of any realm or subclass, 'DataView', or '' for what is no view. */
export function viewName(value: unknown): string {
  return ArrayBuffer.isView(value) ? (Reflect.apply(tagOf, value, []) ?? 'DataView') : '';
}

/** `value`, an object: options, a spec. Throws INVALID_ARGUMENT. */
export function requireObject<T extends object>(value: T, argument = 'options'): T {
  if (typeof value === 'object' && value !== null) return value;
  throw invalid(argument, 'an object', value);
}

/** `value`, an integer of `least` … 2⁵³ − 1. Throws INVALID_ARGUMENT. */
export function requireInteger(value: number, argument: string, least = 1): number {
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw invalid(argument, `an integer of ${least} or more`, value);
}

/** Throws INVALID_ARGUMENT for what is no AbortSignal, and `signal.reason` where it is aborted already. */
export function requireSignal(signal: AbortSignal | undefined): void {
  if (signal === undefined) return;
  const { throwIfAborted, addEventListener } = requireObject(signal, 'signal');
  if (typeof throwIfAborted !== 'function' || typeof addEventListener !== 'function') {
    throw invalid('signal', 'an AbortSignal', signal);
  }
  signal.throwIfAborted();
}

/** Throws INVALID_ARGUMENT for a callback that is there and cannot be called. */
export function requireCallback(callback: unknown, argument: string): void {
  if (callback !== undefined && typeof callback !== 'function') throw invalid(argument, 'a function', callback);
}

export function invalid(argument: string, expected: string, received: unknown): MoeError {
  return new MoeError('INVALID_ARGUMENT', { argument, expected, received: show(received) });
}
