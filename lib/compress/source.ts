/** A model to compress, checked as a whole before anything is computed. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { compressedSection } from '../checkpoint/compressed.ts';
import { MoeError } from '../errors.ts';
import type { DecoderConfig, Family } from '../model/decoder-config.ts';
import { familyOf } from '../model/family.ts';
import { checkTensors } from '../model/weights.ts';
import type { MoeNames, MoeSpec } from '../moe/spec.ts';
import type { Recipe } from './recipe/schema.ts';

export interface Source {
  readonly checkpoint: Checkpoint;
  readonly family: Family;
  readonly config: DecoderConfig;
}

/**
 * Checks that the whole model is there and that the recipe fits it.
 *
 * @throws MoeError RECIPE_INVALID, and what `Model.open` throws for a broken folder
 */
export function checkSource(checkpoint: Checkpoint, recipe: Recipe): Source {
  if (compressedSection(checkpoint.config)) {
    refuse(checkpoint.folder, 'an uncompressed model', 'one with a moe section');
  }
  const family = familyOf(checkpoint.config);
  const config = family.config(checkpoint.config);
  checkTensors(checkpoint, config, family.names);
  const specs = config.layers.flatMap(({ block }) => (block.kind === 'moe' ? [block.moe] : []));
  if (specs.length === 0) refuse(checkpoint.folder, 'a model with expert layers', 'dense layers only');
  const experts = Math.min(...specs.map(({ router }) => router.experts));
  for (const [index, step] of recipe.steps.entries()) {
    const at = `recipe/steps/${index}`;
    if (step.step === 'group' && step.groups > experts) {
      refuse(`${at}/groups`, `an average of 1 … ${experts} groups a layer`, String(step.groups));
    }
    if (step.step === 'prune' && step.experts > experts) {
      refuse(`${at}/experts`, `1 … ${experts} experts a layer`, String(step.experts));
    }
    const most = Math.min(...specs.map(({ hidden, width }) => Math.min(hidden, width)));
    if (step.step === 'factorize' && step.rank > most) refuse(`${at}/rank`, `1 … ${most}`, String(step.rank));
  }
  return { checkpoint, family, config };
}

/** The MoE layers of a model: index, spec and tensor names. */
export function moeLayers({ config, family }: Source): { index: number; spec: MoeSpec; names: MoeNames }[] {
  return config.layers.flatMap(({ block }, index) =>
    block.kind === 'moe' ? [{ index, spec: block.moe, names: family.names.layer(index).moe }] : [],
  );
}

function refuse(argument: string, expected: string, received: string): never {
  throw new MoeError('RECIPE_INVALID', { argument, expected, received });
}
