/** Recipes by name. */
import { requireObject, show } from '../../arguments.ts';
import { MoeError } from '../../errors.ts';
import { formatName, type WeightFormat } from '../../weight/format.ts';
import { parseRecipe, type Recipe, type RecipeInput } from './schema.ts';

/** What the named recipes leave open. */
export interface RecipeOptions {
  /** Groups a layer on average, or experts that stay. */
  groups?: number | undefined;
  /** Of each matrix, where a recipe factorizes. */
  rank?: number | undefined;
  /** Share of rows kept whole beside the factors. */
  rows?: number | undefined;
  /** Share of the neurons that stay. */
  neurons?: number | undefined;
  /** 'least-squares' (default) or 'none', the published form. */
  recover?: string | undefined;
  /** How the expert matrices are stored; absent: as in the source. */
  weights?: WeightFormat | undefined;
}

type Preset = (options: RecipeOptions) => RecipeInput['steps'];

/** The name of each preset and its steps. */
const presets = {
  merge: (options) => [
    { step: 'group', method: 'mc-smoe', groups: needed(options, 'groups') },
    { step: 'merge', method: 'frequency', align: options.recover === 'none' ? 'first' : 'dominant' },
    ...quantized(options),
  ],
} as const satisfies Record<string, Preset>;

export type RecipeName = keyof typeof presets;

/** The names that `--recipe` takes. */
export const recipeNames = Object.keys(presets) as RecipeName[];

export function isRecipeName(name: string): name is RecipeName {
  return Object.hasOwn(presets, name);
}

/** The recipe of a name with its open settings. Throws RECIPE_INVALID naming the option, INVALID_ARGUMENT for a weight format that there is not. */
export function namedRecipe(name: string, options: RecipeOptions = {}): Recipe {
  const { recover = 'least-squares', weights } = requireObject(options);
  if (!isRecipeName(name)) refuse('recipe', recipeNames.join(', '), name);
  if (weights !== undefined) formatName(weights);
  return parseRecipe({ name, steps: (presets[name] as Preset)(options), recover });
}

function quantized({ weights }: RecipeOptions): RecipeInput['steps'] {
  return weights ? [{ step: 'quantize', method: 'round', weights: formatName(weights) }] : [];
}

function needed(options: RecipeOptions, name: 'groups' | 'rank' | 'neurons'): number {
  const value = options[name];
  if (typeof value === 'number' && value > 0) return value;
  return refuse(name, 'a number above 0 for this recipe', value);
}

function refuse(argument: string, expected: string, received: unknown): never {
  throw new MoeError('RECIPE_INVALID', { argument, expected, received: show(received) });
}
