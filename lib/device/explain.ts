/** "Why no GPU": what a backend says about its devices, and what to do about it. */
import { addon, type NativeBackend } from '../addon.ts';
import { invalid } from '../arguments.ts';
import type { ErrorCode } from '../errors.ts';

/** Why a device cannot be opened, in one word; docs/errors.md says more about each. '': it can. */
export type DeviceReason =
  | ''
  | 'noLibrary'
  | 'noDriver'
  | 'driverTooOld'
  | 'noDevice'
  | 'notPermitted'
  | 'architectureNotBuilt'
  | 'outOfMemory'
  | 'indexOutOfRange'
  | 'other';

export interface DeviceExplanation {
  readonly available: boolean;
  /** '' where it is available, else an error code of docs/errors.md. */
  readonly code: string;
  readonly reason: DeviceReason;
  /** What would have to be there. */
  readonly expected: string;
  /** What was found: the evidence for `reason`. */
  readonly received: string;
  /** What to do about it. */
  readonly fix: string;
}

/** Devices that `openDevice('auto')` tries, the fastest first. */
export const automaticDevices: readonly string[] = ['cuda', 'cpu'];

const fixes: Record<Exclude<DeviceReason, '' | 'other'>, string> = {
  noLibrary: 'build that library (docs/gpu.md says how for cuda), or name a device that devices() lists',
  noDriver: 'install the NVIDIA driver; in a container, start it with the GPUs passed through (docker run --gpus all)',
  driverTooOld: 'update the NVIDIA driver to the version expected or a newer one, or use the cpu device',
  noDevice: 'see whether nvidia-smi lists a GPU, and whether CUDA_VISIBLE_DEVICES hides it',
  notPermitted:
    'let this user read and write /dev/nvidia*; in a container, pass the GPUs through (docker run --gpus all)',
  architectureNotBuilt: "build the library for this GPU's architecture: npm run build:cuda -- --release",
  outOfMemory: 'end other processes that hold memory of the GPU (nvidia-smi lists them)',
  indexOutOfRange: 'name one of the devices that devices() lists',
};

/** For reasons that a backend gave no word for. */
const fixesByCode: Partial<Record<ErrorCode, string>> = {
  INVALID_ARGUMENT: 'name one of the devices that devices() lists',
  UNSUPPORTED: 'use another device: this one cannot run here',
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
    return unavailable('DEVICE_UNAVAILABLE', 'noLibrary', `moe_${name}.so beside the addon`, 'no such library');
  }
  if (found.count === 0) return unavailable(found.code, reasonOf(found), found.expected, found.received);
  if (!Number.isInteger(index) || index < 0 || index >= found.count) {
    return unavailable('DEVICE_UNAVAILABLE', 'indexOutOfRange', `an index below ${found.count}`, `${name}:${index}`);
  }
  return { available: true, code: '', reason: '', expected: '', received: '', fix: '' };
}

function reasonOf({ argument, code }: NativeBackend): Exclude<DeviceReason, ''> {
  if (Object.hasOwn(fixes, argument)) return argument as keyof typeof fixes;
  return code === 'OUT_OF_MEMORY' ? 'outOfMemory' : 'other';
}

function unavailable(
  code: string,
  reason: Exclude<DeviceReason, ''>,
  expected: string,
  received: string,
): DeviceExplanation {
  const fix = reason === 'other' ? (fixesByCode[code as ErrorCode] ?? 'see docs/errors.md') : fixes[reason];
  return { available: false, code, reason, expected, received, fix };
}
