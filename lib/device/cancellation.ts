/** Couples an AbortSignal to the native object that stops a run or a load. */
import { addon, type NativeCancel } from '../addon.ts';
import { requireSignal } from '../arguments.ts';
import { MoeError } from '../errors.ts';

export interface Cancellation {
  readonly native: NativeCancel;
  /** What a failed call rejects with: the signal's reason where the signal was the cause. */
  reason(error: unknown): unknown;
  /** Takes the listener away; call it when the work is done. */
  end(): void;
}

/** Undefined where there is no signal. Throws `signal.reason` where it is aborted already, INVALID_ARGUMENT for what is none. */
export function cancellation(signal: AbortSignal | undefined): Cancellation | undefined {
  requireSignal(signal);
  if (!signal) return undefined;
  const native = addon().createCancel();
  const stop = (): void => native.cancel();
  signal.addEventListener('abort', stop, { once: true });
  return {
    native,
    reason: (error) =>
      error instanceof MoeError && error.code === 'ABORTED' && signal.aborted ? signal.reason : error,
    end: () => signal.removeEventListener('abort', stop),
  };
}
