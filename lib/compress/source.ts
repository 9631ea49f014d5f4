/** A model to compress, checked as a whole before anything is computed. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { compressedSection } from '../checkpoint/compressed.ts';
import type { StoredFloats } from '../checkpoint/stored-matrix.ts';
import { MoeError } from '../errors.ts';
import type { DecoderConfig, Family } from '../model/decoder-config.ts';
import { familyOf } from '../model/family.ts';
import { checkTensors } from '../model/weights.ts';
import type { MoeNames, MoeSpec } from '../moe/spec.ts';
import { scalesInputs } from './input-scales.ts';
import type { Recipe } from './recipe/schema.ts';

export interface Source {
  readonly checkpoint: Checkpoint;
  readonly family: Family;
  readonly config: DecoderConfig;
}

/**
 * Checks that the whole model is there and can be compressed.
 *
 * @throws MoeError RECIPE_INVALID, and what `Model.open` throws for a broken folder
 */
export function openSource(checkpoint: Checkpoint): Source {
  if (compressedSection(checkpoint.config)) {
    refuse(checkpoint.folder, 'an uncompressed model', 'one with a moe section');
  }
  const family = familyOf(checkpoint.config);
  const config = family.config(checkpoint.config);
  checkTensors(checkpoint, config, family.names);
  if (!config.layers.some(({ block }) => block.kind === 'moe')) {
    refuse(checkpoint.folder, 'a model with expert layers', 'dense layers only');
  }
  return { checkpoint, family, config };
}

/** Checks that the recipe's numbers fit the model. Throws RECIPE_INVALID, which points into the recipe. */
export function checkRecipe({ config }: Source, recipe: Recipe): void {
  const specs = config.layers.flatMap(({ block }) => (block.kind === 'moe' ? [block.moe] : []));
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
    if (index < recipe.steps.length - 1 && scalesInputs({ ...recipe, steps: [step] })) {
      refuse(`${at}/scales`, "'down' alone, unless it is the last step", step.step);
    }
  }
}

/** An MoE layer of a model. */
export interface SourceLayer {
  readonly index: number;
  readonly spec: MoeSpec;
  readonly names: MoeNames;
  /** Name of the norm that gives the block its input, and nothing else, without its ending '.weight'. */
  readonly norm: string;
}

export function moeLayers({ config, family }: Source): SourceLayer[] {
  return config.layers.flatMap(({ block }, index) => {
    if (block.kind !== 'moe') return [];
    const { moe: names, blockNorm: norm } = family.names.layer(index);
    return [{ index, spec: block.moe, names, norm }];
  });
}

/** How the source stores its expert matrices; a refit of floats that are no 16-bit ones stays in f32. */
export function sourceForm({ checkpoint }: Pick<Source, 'checkpoint'>, names: MoeNames): StoredFloats {
  const { dtype } = checkpoint.entry(`${names.expert(0).up}.weight`);
  return { format: dtype === 'BF16' ? 'bf16' : dtype === 'F16' ? 'f16' : 'f32' };
}

function refuse(argument: string, expected: string, received: string): never {
  throw new MoeError('RECIPE_INVALID', { argument, expected, received });
}
