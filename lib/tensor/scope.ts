/** `scope(() => …)` frees the tensors that were made inside it, except those that it returns. */
import { AsyncLocalStorage } from 'node:async_hooks';
import { invalid } from '../arguments.ts';

interface Disposable {
  readonly disposed: boolean;
  dispose(): void;
}

interface Frame {
  readonly made: Set<Disposable>;
  readonly outer: Frame | undefined;
}

const frames = new AsyncLocalStorage<Frame>();

/** @internal Registers what the innermost open scope must free. */
export function track(made: Disposable): void {
  frames.getStore()?.made.add(made);
}

/**
 * Runs `body` and disposes the tensors made in it, also after an error. What the result holds lives on: the result itself or
 * the elements of an array, a plain object or a Map, at any depth; it passes to the scope around this one, if there is one.
 * An async body keeps its scope across awaits.
 *
 * @example
 * const y = await scope(async () => {
 *   const x = await Tensor.from(device, data, { dtype: 'f32', shape: [1, 64] }); // freed
 *   return (await program.run({ x })).y;                                        // kept
 * });
 */
export function scope<T>(body: () => T): T {
  if (typeof body !== 'function') throw invalid('body', 'a function', body);
  const frame: Frame = { made: new Set(), outer: frames.getStore() };
  let result: T;
  try {
    result = frames.run(frame, body);
  } catch (error) {
    close(frame, undefined);
    throw error;
  }
  if (!(result instanceof Promise)) {
    close(frame, result);
    return result;
  }
  const settled = result.then(
    (value: unknown) => {
      close(frame, value);
      return value;
    },
    (error: unknown) => {
      close(frame, undefined);
      throw error;
    },
  );
  return settled as T;
}

function close(frame: Frame, result: unknown): void {
  keep(frame, result, new Set());
  for (const made of frame.made) made.dispose();
  frame.made.clear();
}

function keep(frame: Frame, value: unknown, seen: Set<object>): void {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || seen.has(value)) return;
  seen.add(value);
  if (frame.made.delete(value as Disposable)) frame.outer?.made.add(value as Disposable);
  else if (value instanceof Map) for (const item of value.values()) keep(frame, item, seen);
  else if (Array.isArray(value)) for (const item of value) keep(frame, item, seen);
  else if (isPlain(value)) for (const item of Object.values(value)) keep(frame, item, seen);
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
