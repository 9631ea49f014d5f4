/** Finds and opens devices. */
import { addon, type NativeBackend } from '../addon.ts';
import { invalid, requireObject } from '../arguments.ts';
import { type ErrorCode, errorCodes, MoeError } from '../errors.ts';
import { Device } from './device.ts';
import { automaticDevices, explain } from './explain.ts';

export interface DeviceOptions {
  /** 1 to 1024; default: as many as there are cores. */
  threads?: number | undefined;
  /** Forces an instruction set by the name in `description.isas`. */
  isa?: string | undefined;
  /** Bytes that the device may hold; default: no limit of its own. */
  memoryLimit?: number | undefined;
  /** Which device of that name; `'name:index'` says the same. Default 0. */
  index?: number | undefined;
  /** `reference` only: no host addresses, deferred execution, poisoned memory, as a GPU would behave. */
  foreign?: boolean | undefined;
  /** `cuda` and `simt`: a row's result depends on that row alone, whatever else runs with it; slower. Default false. */
  batchInvariant?: boolean | undefined;
  /** `cuda` and `simt`: the native description lists the planned work of each kernel, and on `simt` what it moved. Default false. */
  traffic?: boolean | undefined;
}

export interface DeviceInfo {
  readonly name: string;
  readonly index: number;
  readonly description: Readonly<Record<string, unknown>>;
}

/**
 * Opens a device: 'cpu', 'reference', 'name:index', or 'auto' (the first of cuda and cpu that is here; `device.reason` says
 * why not the GPU). Throws DEVICE_UNAVAILABLE, INVALID_ARGUMENT, OUT_OF_MEMORY, ADDON_MISSING.
 *
 * @example
 * await using device = await openDevice('cpu', { threads: 2 });
 */
export async function openDevice(name: string = 'auto', options: DeviceOptions = {}): Promise<Device> {
  const { backend, index } = parseName(name, requireObject(options).index);
  const lines = optionLines(options);
  const backends = addon().backends();
  const [chosen, reason] = backend === 'auto' ? chooseAutomatically(backends) : [backend, undefined];
  requireAvailable(backends, chosen, index);
  return new Device(addon().openDevice(chosen, index, lines), index, reason);
}

/** Every device that is here. Opens each for its description. Throws ADDON_MISSING. */
export function devices(): DeviceInfo[] {
  const found: DeviceInfo[] = [];
  for (const { name, count } of addon().backends()) {
    for (let index = 0; index < count; index++) {
      const native = addon().openDevice(name, index, '');
      found.push({ name, index, description: JSON.parse(native.describe()) as Record<string, unknown> });
      native.dispose();
    }
  }
  return found;
}

function parseName(name: string, option: number | undefined): { backend: string; index: number } {
  const match = typeof name === 'string' ? /^([a-z][a-z0-9_-]*)(?::(\d+))?$/.exec(name) : null;
  if (!match) throw invalid('device', "'auto', a device's name, or 'name:index'", name);
  const [, backend = '', suffix] = match;
  if (suffix !== undefined && option !== undefined && Number(suffix) !== option) {
    throw invalid('index', `${suffix}, as in '${name}'`, option);
  }
  const index = option ?? Number(suffix ?? 0);
  if (!Number.isInteger(index) || index < 0 || index > 1023)
    throw invalid('index', 'a whole number from 0 to 1023', index);
  return { backend, index };
}

/** The options as the lines of `key=value` that the ABI takes. */
function optionLines(options: DeviceOptions): string {
  const { threads, isa, memoryLimit, index: _index, ...rest } = options;
  const { foreign, batchInvariant, traffic, ...unknown } = rest;
  const [key] = Object.keys(unknown);
  if (key !== undefined)
    throw invalid(key, 'threads, isa, memoryLimit, index, foreign, batchInvariant or traffic', key);
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 1024)) {
    throw invalid('threads', 'a whole number from 1 to 1024', threads);
  }
  if (memoryLimit !== undefined && !(Number.isSafeInteger(memoryLimit) && memoryLimit > 0)) {
    throw invalid('memoryLimit', 'bytes, whole and positive', memoryLimit);
  }
  if (isa !== undefined && !(typeof isa === 'string' && /^[a-z0-9_.-]+$/i.test(isa))) {
    throw invalid('isa', 'the name of an instruction set', isa);
  }
  const flags = { foreign, batchInvariant, traffic };
  for (const [name, flag] of Object.entries(flags)) {
    if (flag !== undefined && typeof flag !== 'boolean') throw invalid(name, 'true or false', flag);
  }
  const lines: string[] = [];
  if (threads !== undefined) lines.push(`threads=${threads}`);
  if (isa !== undefined) lines.push(`isa=${isa}`);
  if (memoryLimit !== undefined) lines.push(`memoryLimit=${memoryLimit}`);
  for (const [name, flag] of Object.entries(flags)) if (flag) lines.push(`${name}=1`);
  return lines.join('\n');
}

function chooseAutomatically(backends: readonly NativeBackend[]): [name: string, reason: string | undefined] {
  const reasons: string[] = [];
  for (const name of automaticDevices) {
    const found = explain(
      backends.find((entry) => entry.name === name),
      name,
      0,
    );
    if (found.available) return [name, reasons.join('; ') || undefined];
    reasons.push(`${name}: ${found.code}: expected ${found.expected}, got ${found.received}`);
  }
  throw new MoeError('DEVICE_UNAVAILABLE', {
    argument: 'device',
    expected: automaticDevices.join(' or '),
    received: reasons.join('; '),
  });
}

function requireAvailable(backends: readonly NativeBackend[], name: string, index: number): void {
  const { available, code, expected, received } = explain(
    backends.find((entry) => entry.name === name),
    name,
    index,
  );
  if (available) return;
  const known = Object.hasOwn(errorCodes, code) ? (code as ErrorCode) : 'DEVICE_UNAVAILABLE';
  throw new MoeError(known, { argument: `device '${name}'`, expected, received });
}
