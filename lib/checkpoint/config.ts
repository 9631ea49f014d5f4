/**
 * Typed readers for config.json. A key may have several names (transformers 4 and 5 differ); the first that is there counts, and
 * null is as good as absent. All throw CONFIG_INVALID with the key, what was expected and what came.
 */
import { show } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { isObject } from './json.ts';

export type Config = Readonly<Record<string, unknown>>;
export type Keys = string | readonly string[];

/** Bounds above every published model, so that an absurd value fails here and not in an allocation. */
export const caps = {
  layers: 10_000,
  vocabulary: 10_000_000,
  width: 1_000_000,
  experts: 65_536,
  positions: 1_000_000_000,
} as const;

/** What YaRN needs beside base and factor (Peng et al. 2023, section 3.4). */
export interface Yarn {
  /** Positions of the model before its context was extended. */
  readonly originalPositions: number;
  /** Elements that turn more often than this over those positions keep their frequency. */
  readonly betaFast: number;
  /** Those that turn less often have it divided by the factor. */
  readonly betaSlow: number;
  /** Cosines and sines are multiplied by it. */
  readonly attentionFactor: number;
  /** Whether the bounds between the two are rounded outwards to whole elements. */
  readonly truncate: boolean;
}

/** Rotary position settings. */
export interface Rope {
  readonly type: 'default' | 'linear' | 'yarn';
  /** Base of the frequencies. */
  readonly theta: number;
  /** Positions are divided by it (type yarn: at the slow elements); 1 for type default. */
  readonly factor: number;
  /** Fraction of the head's elements that turn; 1 where the config says nothing. */
  readonly partialRotaryFactor: number;
  /** Of type yarn. */
  readonly yarn?: Yarn;
}

/** An integer of 1 … max. */
export function positiveInteger(config: Config, keys: Keys, options: { max?: number; fallback?: number } = {}): number {
  return integerOf(config, keys, 1, options);
}

/** An integer of 0 … max. */
export function nonNegativeInteger(
  config: Config,
  keys: Keys,
  options: { max?: number; fallback?: number } = {},
): number {
  return integerOf(config, keys, 0, options);
}

/** A finite number of min … max. */
export function number(
  config: Config,
  keys: Keys,
  options: { min?: number; max?: number; fallback?: number } = {},
): number {
  const { min = -Number.MAX_VALUE, max = Number.MAX_VALUE, fallback } = options;
  const good = (value: unknown): value is number => typeof value === 'number' && value >= min && value <= max;
  return read(config, keys, rangeText('a number', options.min, options.max), good, fallback);
}

export function boolean(config: Config, keys: Keys, options: { fallback?: boolean } = {}): boolean {
  return read(config, keys, 'true or false', (value) => typeof value === 'boolean', options.fallback);
}

export function string(config: Config, keys: Keys, options: { fallback?: string } = {}): string {
  return read(config, keys, 'a string', (value) => typeof value === 'string', options.fallback);
}

/** One of the given words. */
export function oneOf<T extends string>(
  config: Config,
  keys: Keys,
  choices: readonly T[],
  options: { fallback?: T } = {},
): T {
  const good = (value: unknown): value is T => choices.includes(value as T);
  return read(config, keys, `one of ${choices.join(', ')}`, good, options.fallback);
}

/** A list of integers of min … max. */
export function integers(
  config: Config,
  keys: Keys,
  options: { min?: number; max?: number; length?: number; fallback?: readonly number[] } = {},
): number[] {
  const { min = 0, max = Number.MAX_SAFE_INTEGER, length, fallback } = options;
  const item = (value: unknown): boolean => isInteger(value) && value >= min && value <= max;
  const good = (value: unknown): value is number[] => isList(value, length, item);
  return [
    ...read<readonly number[]>(config, keys, `${listText(length)} of integers from ${min} to ${max}`, good, fallback),
  ];
}

export function strings(
  config: Config,
  keys: Keys,
  options: { length?: number; fallback?: readonly string[] } = {},
): string[] {
  const good = (value: unknown): value is string[] => isList(value, options.length, (item) => typeof item === 'string');
  return [...read<readonly string[]>(config, keys, `${listText(options.length)} of strings`, good, options.fallback)];
}

/** What `reader` gives, or undefined where the config has none of the keys: `optional(config, 'head_dim', positiveInteger)`. */
export function optional<T>(config: Config, keys: Keys, reader: (config: Config, keys: Keys) => T): T | undefined {
  return find(config, keys) === undefined ? undefined : reader(config, keys);
}

/** The object under a key; undefined where there is none. */
export function section(config: Config, keys: Keys): Config | undefined {
  const good = (value: unknown): value is Record<string, unknown> => isObject(value);
  return optional(config, keys, (from, names) => read<Config>(from, names, 'an object', good, undefined));
}

/**
 * Rotary settings, from `rope_parameters` (transformers 5) or `rope_theta`, `rope_scaling` and `partial_rotary_factor`
 * (transformers 4); `rope_scaling` counts where a config has both, as in transformers 5. `theta` is the family's default base;
 * without it the config must name one.
 *
 * Throws CONFIG_UNSUPPORTED for types other than default, linear and yarn, CONFIG_INVALID.
 */
export function ropeOf(config: Config, options: { theta?: number } = {}): Rope {
  const scaling = section(config, 'rope_scaling') ?? {};
  const inner = Object.keys(scaling).length > 0 ? scaling : (section(config, 'rope_parameters') ?? {});
  const nested = Object.keys(inner).find((key) => isObject(inner[key]));
  if (nested !== undefined) {
    throw new MoeError('CONFIG_UNSUPPORTED', {
      argument: 'rope_parameters',
      expected: 'one rope for all layers',
      received: show(nested),
    });
  }
  const type = string(inner, ['rope_type', 'type'], { fallback: 'default' });
  if (type !== 'default' && type !== 'linear' && type !== 'yarn') {
    throw new MoeError('CONFIG_UNSUPPORTED', {
      argument: 'rope_type',
      expected: 'default, linear or yarn',
      received: show(type),
    });
  }
  const thetaFrom = find(inner, 'rope_theta') === undefined ? config : inner;
  const partialFrom = find(inner, 'partial_rotary_factor') === undefined ? config : inner;
  const fallback = options.theta === undefined ? {} : { fallback: options.theta };
  const rope: Rope = {
    type,
    // YaRN divides by the logarithm of the base.
    theta: number(thetaFrom, 'rope_theta', { min: type === 'yarn' ? 2 : 1e-6, max: 1e18, ...fallback }),
    factor: type === 'linear' ? number(inner, 'factor', factorRange) : 1,
    partialRotaryFactor: number(partialFrom, 'partial_rotary_factor', { min: 1e-6, max: 1, fallback: 1 }),
  };
  return type === 'yarn' ? { ...rope, ...yarnOf(config, inner) } : rope;
}

const factorRange = { min: 1e-6, max: 1e9 };

function yarnOf(config: Config, inner: Config): { factor: number; yarn: Yarn } {
  const positions = (from: Config, key: string): number => positiveInteger(from, key, { max: caps.positions });
  const key = 'original_max_position_embeddings';
  const originalPositions =
    find(config, key) || find(inner, key)
      ? positions(find(config, key) ? config : inner, key)
      : positions(config, 'max_position_embeddings');
  const factor =
    optional(inner, 'factor', (from, name) => number(from, name, factorRange)) ??
    positions(config, 'max_position_embeddings') / originalPositions;
  // 0 is as good as absent.
  const positive = (name: string): number | undefined =>
    number(inner, name, { min: 0, max: 1e9, fallback: 0 }) || undefined;
  const magnitude = (weight: number): number => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
  const [mscale, mscaleAll] = [positive('mscale'), positive('mscale_all_dim')];
  const inferred = mscale && mscaleAll ? magnitude(mscale) / magnitude(mscaleAll) : magnitude(1);
  const yarn = {
    originalPositions,
    betaFast: positive('beta_fast') ?? 32,
    betaSlow: positive('beta_slow') ?? 1,
    attentionFactor: number(inner, 'attention_factor', { min: 0, max: 1e9, fallback: inferred }),
    truncate: boolean(inner, 'truncate', { fallback: true }),
  };
  return { factor, yarn };
}

function integerOf(config: Config, keys: Keys, min: number, options: { max?: number; fallback?: number }): number {
  const { max = Number.MAX_SAFE_INTEGER, fallback } = options;
  const good = (value: unknown): value is number => isInteger(value) && value >= min && value <= max;
  return read(config, keys, rangeText('an integer', min, options.max), good, fallback);
}

function read<T>(
  config: Config,
  keys: Keys,
  expected: string,
  good: (value: unknown) => value is T & {},
  fallback: T | undefined,
): T {
  const found = find(config, keys);
  if (found === undefined && fallback !== undefined) return fallback;
  if (found !== undefined && good(found.value)) return found.value;
  const names = typeof keys === 'string' ? keys : keys.join(' or ');
  throw new MoeError('CONFIG_INVALID', { argument: found?.key ?? names, expected, received: show(found?.value) });
}

/** The first of the keys that the config itself has, so that `constructor` is not found on every object. */
function find(config: Config, keys: Keys): { key: string; value: unknown } | undefined {
  for (const key of typeof keys === 'string' ? [keys] : keys) {
    const value = Object.hasOwn(config, key) ? config[key] : undefined;
    if (value !== undefined && value !== null) return { key, value };
  }
  return undefined;
}

function isInteger(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function isList(value: unknown, length: number | undefined, item: (value: unknown) => boolean): boolean {
  return Array.isArray(value) && (length === undefined || value.length === length) && value.every(item);
}

function listText(length: number | undefined): string {
  return length === undefined ? 'a list' : `a list of ${length}`;
}

function rangeText(kind: string, min: number | undefined, max: number | undefined): string {
  if (min === undefined) return max === undefined ? kind : `${kind} of at most ${max}`;
  return max === undefined ? `${kind} of at least ${min}` : `${kind} from ${min} to ${max}`;
}
