/** "Why no GPU": what a backend says about its devices, and what to do about it. */
import { addon, type NativeBackend } from '../addon.ts';
import { invalid } from '../arguments.ts';
import type { ErrorCode } from '../errors.ts';

export interface DeviceExplanation {
  readonly available: boolean;
  /** '' where it is available, else an error code of docs/errors.md. */
  readonly code: string;
  /** What would have to be there. */
  readonly expected: string;
  /** What was found. */
  readonly received: string;
  /** What to do about it. */
  readonly fix: string;
}

/** Devices that `openDevice('auto')` tries, the fastest first. */
export const automaticDevices: readonly string[] = ['cuda', 'cpu'];

const fixes: Partial<Record<ErrorCode, string>> = {
  INVALID_ARGUMENT: 'name one of the devices that devices() lists',
  UNSUPPORTED: 'use another device: this one cannot run here',
  OUT_OF_MEMORY: 'free memory on the device, or raise memoryLimit',
  DEVICE_UNAVAILABLE: 'install what is expected, or use the cpu device',
  DEVICE_LOST: 'restart the process; if it stays lost, look at the driver log',
  INTERNAL: 'report it with the output of `node-moe doctor`',
};

/**
 * Whether a device named `name` ('cpu', 'cuda', 'name:index') can be opened, and if not, why and what helps.
 * Throws ADDON_MISSING, INVALID_ARGUMENT.
 */
export function explainDevice(name: string): DeviceExplanation {
  if (typeof name !== 'string') throw invalid('name', "a device's name", name);
  const [backend = '', index = '0'] = name.split(':');
  const found = addon()
    .backends()
    .find((entry) => entry.name === backend);
  return explain(found, backend, Number(index));
}

/** @internal */
export function explain(found: NativeBackend | undefined, name: string, index: number): DeviceExplanation {
  if (!found) {
    return unavailable('DEVICE_UNAVAILABLE', `moe_${name}.so beside the addon`, 'no such library');
  }
  if (found.count === 0) return unavailable(found.code, found.expected, found.received);
  if (!Number.isInteger(index) || index < 0 || index >= found.count) {
    return unavailable('DEVICE_UNAVAILABLE', `an index below ${found.count}`, `${name}:${index}`);
  }
  return { available: true, code: '', expected: '', received: '', fix: '' };
}

function unavailable(code: string, expected: string, received: string): DeviceExplanation {
  const fix = fixes[code as ErrorCode] ?? 'see docs/errors.md';
  return { available: false, code, expected, received, fix };
}
