import { show } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { nativeForm, type WeightFormat } from '../weight/format.ts';

/** What `compress` does; recorded as it is in the written folder's config.json. */
export interface MergeRecipe {
  readonly name: 'merge';
  /** Groups a layer on average. */
  readonly groups: number;
  /** 'least-squares' refits the merged down projections; 'none' is the published merge. */
  readonly recover: 'least-squares' | 'none';
  /** How the expert matrices are stored; absent: as in the source. */
  readonly weights?: WeightFormat;
}

export type Recipe = MergeRecipe;

/** The names that `--recipe` takes. */
export const recipeNames = ['merge'] as const satisfies readonly Recipe['name'][];

/**
 * Fills in the defaults of a recipe and checks it.
 *
 * @throws MoeError RECIPE_INVALID naming the option; INVALID_ARGUMENT for a weight format that there is not
 */
export function makeRecipe(options: {
  recipe: string;
  groups?: number | undefined;
  recover?: string | undefined;
  weights?: WeightFormat | undefined;
}): Recipe {
  const { recipe: name, groups, recover = 'least-squares', weights } = options;
  if (name !== 'merge') refuse('recipe', recipeNames.join(', '), name);
  if (!(typeof groups === 'number' && groups >= 1)) refuse('groups', 'a number of at least 1', groups);
  if (recover !== 'least-squares' && recover !== 'none') refuse('recover', 'least-squares or none', recover);
  if (weights !== undefined && nativeForm(weights).outer) refuse('weights', 'a format that is not dual', weights);
  return { name, groups, recover, ...(weights && { weights }) };
}

function refuse(argument: string, expected: string, received: unknown): never {
  throw new MoeError('RECIPE_INVALID', { argument, expected, received: show(received) });
}
