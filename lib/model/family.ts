/** The model families that node-moe knows, by the `model_type` of their config.json. */
import { string } from '../checkpoint/config.ts';
import { MoeError } from '../errors.ts';
import type { DecoderConfig, Family } from './decoder-config.ts';
import { mixtral } from './families/mixtral.ts';
import { olmoe } from './families/olmoe.ts';
import { qwen2Moe } from './families/qwen2-moe.ts';
import { qwen3Moe } from './families/qwen3-moe.ts';

export const families: ReadonlyMap<string, Family> = new Map(
  [mixtral, olmoe, qwen2Moe, qwen3Moe].map((family) => [family.type, family]),
);

/** The family of a raw config.json. Throws CONFIG_UNSUPPORTED, which lists the known ones, and CONFIG_INVALID without a model_type. */
export function familyOf(raw: Readonly<Record<string, unknown>>): Family {
  const type = string(raw, 'model_type');
  const family = families.get(type);
  if (family) return family;
  throw new MoeError('CONFIG_UNSUPPORTED', {
    argument: 'model_type',
    expected: [...families.keys()].join(', '),
    received: type,
  });
}

/** The checked configuration of a raw config.json. Throws CONFIG_UNSUPPORTED, CONFIG_INVALID. */
export function decoderConfig(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  return familyOf(raw).config(raw);
}
