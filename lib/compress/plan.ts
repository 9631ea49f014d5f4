/** What may be merged, and what will be: checks of the source, then groups for every layer from the statistics of its router. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { compressedSection } from '../checkpoint/compressed.ts';
import { MoeError } from '../errors.ts';
import type { DecoderConfig, Family } from '../model/decoder-config.ts';
import { familyOf } from '../model/family.ts';
import { checkTensors } from '../model/weights.ts';
import type { RouterStatistics } from './calibrate.ts';
import { groupExperts, groupsPerLayer, routerSimilarity, usageFrequency } from './group.ts';
import type { Recipe } from './recipe.ts';
import type { LayerReport } from './report.ts';

/** A model to compress. */
export interface Source {
  readonly checkpoint: Checkpoint;
  readonly family: Family;
  readonly config: DecoderConfig;
}

/**
 * Checks that the whole model is there and that the recipe fits it, before anything is computed.
 *
 * @throws MoeError RECIPE_INVALID, and what `Model.open` throws for a broken folder
 */
export function checkSource(checkpoint: Checkpoint, recipe: Recipe): Source {
  if (compressedSection(checkpoint.config)) {
    throw new MoeError('RECIPE_INVALID', {
      argument: checkpoint.folder,
      expected: 'an uncompressed model',
      received: 'one with a moe section',
    });
  }
  const family = familyOf(checkpoint.config);
  const config = family.config(checkpoint.config);
  checkTensors(checkpoint, config, family.names);
  const experts = config.layers.flatMap(({ block }) => (block.kind === 'moe' ? [block.moe.router.experts] : []));
  if (experts.length === 0) {
    throw new MoeError('RECIPE_INVALID', {
      argument: checkpoint.folder,
      expected: 'a model with expert layers',
      received: 'dense layers only',
    });
  }
  if (recipe.groups > Math.min(...experts)) {
    throw new MoeError('RECIPE_INVALID', {
      argument: 'groups',
      expected: `an average of 1 … ${Math.min(...experts)} groups a layer`,
      received: String(recipe.groups),
    });
  }
  return { checkpoint, family, config };
}

/** The groups of every observed layer. */
export function planLayers(observed: readonly RouterStatistics[], recipe: Recipe): LayerReport[] {
  const frequencies = observed.map(({ counts }) => usageFrequency(counts));
  const groups = groupsPerLayer(frequencies, recipe.groups);
  return observed.map(({ layer, experts, gram }, index) => {
    const [frequency, count] = [frequencies[index] as Float64Array, groups[index] as number];
    const similarity = routerSimilarity(gram, experts);
    const labels = groupExperts(frequency, similarity, count);
    return {
      layer,
      experts,
      groups: count,
      labels: [...labels],
      frequencies: [...frequency],
      similarity: [...similarity],
    };
  });
}
