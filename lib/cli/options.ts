import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Device } from '../device/device.ts';
import { explainDevice } from '../device/explain.ts';
import { openDevice } from '../device/open.ts';
import { MoeError } from '../errors.ts';
import { cacheDtypes } from '../model/kv-cache.ts';
import { parseWeightFormat, type WeightFormat } from '../weight/format.ts';

/** Options that every command takes. */
export interface CommonOptions {
  json?: boolean;
  threads?: number;
}

export function withCommonOptions(command: Command): Command {
  return command
    .option('--json', 'print one JSON document on stdout and nothing else there')
    .option('--threads <count>', 'threads of the cpu device; others ignore it (default: all cores)', positiveInteger);
}

export function deviceOption(): Option {
  return new Option('--device <name>', 'auto, cpu, reference, or another device that doctor lists').default('auto');
}

export function weightsOption(): Option {
  return new Option(
    '--weights <format>',
    'format of the expert matrices: f32, f16, bf16, int8, int4, int4:64, int4:channel:symmetric, … (default: as stored)',
  ).argParser(weightFormat);
}

export function cacheOption(): Option {
  return new Option('--cache <dtype>', 'of cached keys and values').choices(cacheDtypes).default('f32');
}

export function weightFormat(text: string): WeightFormat {
  try {
    return parseWeightFormat(text);
  } catch (error) {
    throw new InvalidArgumentError(
      error instanceof MoeError && error.expected ? `expected ${error.expected}` : String(error),
    );
  }
}

export function positiveInteger(text: string): number {
  const value = numberOf(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new InvalidArgumentError('expected a whole number of at least 1');
  return value;
}

export function nonNegativeInteger(text: string): number {
  const value = numberOf(text);
  if (!Number.isSafeInteger(value) || value < 0)
    throw new InvalidArgumentError('expected a whole number of at least 0');
  return value;
}

export function nonNegative(text: string): number {
  const value = numberOf(text);
  if (!(Number.isFinite(value) && value >= 0)) throw new InvalidArgumentError('expected a number of at least 0');
  return value;
}

/** In (0, 1]. */
export function share(text: string): number {
  const value = numberOf(text);
  if (!(value > 0 && value <= 1)) throw new InvalidArgumentError('expected a number above 0, at most 1');
  return value;
}

/** In (0, 1). */
export function ratio(text: string): number {
  const value = numberOf(text);
  if (!(value > 0 && value < 1)) throw new InvalidArgumentError('expected a number between 0 and 1');
  return value;
}

/** A comma-separated list of numbers in (0, 1). */
export function ratioList(text: string): number[] {
  return text.split(',').map(ratio);
}

/** Decimal notation only: Number takes '' for 0, and hexadecimal. */
function numberOf(text: string): number {
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
}

/** A comma-separated list of whole numbers. */
export function integerList(text: string): number[] {
  return text.split(',').map(positiveInteger);
}

/** Opens the device that the options name. */
export function openChosenDevice(options: CommonOptions & { device?: string; isa?: string }): Promise<Device> {
  const { device = 'auto', threads, isa } = options;
  const [name] = device.split(':');
  // Only the cpu counts threads; another device would refuse the option.
  const counts = name === 'cpu' || (name === 'auto' && !explainDevice('cuda').available);
  return openDevice(device, { ...(counts && threads !== undefined && { threads }), ...(isa !== undefined && { isa }) });
}
