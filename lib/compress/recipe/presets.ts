/** Recipes by name. */
import { requireObject, show } from '../../arguments.ts';
import { MoeError } from '../../errors.ts';
import { formatName, isInteger, type WeightFormat } from '../../weight/format.ts';
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
  /** In place of `neurons`: bytes of all experts next to 16-bit originals. */
  ratio?: number | undefined;
  /** 'least-squares' (default) or 'none', the published form. */
  recover?: string | undefined;
  /** How the expert matrices are stored; absent: as in the source. */
  weights?: WeightFormat | undefined;
}

type Steps = RecipeInput['steps'];
type Preset = (options: RecipeOptions) => Steps;

/** The name of each preset and its steps. */
const presets = {
  /** Merged, then factorized. Published with the weights aligned to the first expert, and as LoSparse. */
  'mc-smoe': (options) => [
    // Choosing a group's neurons keeps far more than averaging its experts (docs/compression.md).
    ...(isPublished(options) ? merged(options) : mergedNeurons(options)),
    {
      step: 'factorize',
      ...(isPublished(options) ? { method: 'losparse', importance: 'model' } : { method: 'joint' }),
      rank: needed(options, 'rank'),
      rows: options.rows ?? 0,
    },
    ...quantized(options),
  ],
  merge: (options) => [...merged(options), ...quantized(options)],
  reap: (options) => [
    { step: 'prune', method: 'reap', experts: needed(options, 'groups'), gates: 'plain' },
    ...quantized(options),
  ],
  'hc-smoe': (options) => [
    { step: 'group', method: 'hc-smoe', groups: needed(options, 'groups'), budget: 'layer' },
    { step: 'merge', method: 'frequency', align: isPublished(options) ? 'none' : 'dominant' },
    ...quantized(options),
  ],
  slim: (options) => [
    options.ratio === undefined
      ? { step: 'slim', keep: needed(options, 'neurons') }
      : { step: 'slim', ratio: options.ratio },
    ...quantized(options),
  ],
  neurons: (options) => [
    { step: 'group', method: 'mc-smoe', groups: needed(options, 'groups') },
    {
      step: 'merge',
      method: 'neurons',
      align: 'none',
      ...(options.ratio === undefined ? { neurons: options.neurons } : { ratio: options.ratio }),
    },
    ...quantized(options),
  ],
  /** What keeps most for its bytes: fewer bits while they suffice, then fewer neurons. */
  best: ({ neurons, ratio, ...options }) => {
    const slim: Steps =
      ratio !== undefined
        ? [{ step: 'slim', ratio }]
        : neurons !== undefined
          ? [{ step: 'slim', keep: needed({ neurons }, 'neurons') }]
          : [];
    const steps = [...slim, ...quantized(options)];
    return steps.length > 0 ? steps : refuse('targetRatio', 'a ratio, or neurons or weights, for this recipe', ratio);
  },
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

function merged(options: RecipeOptions): Steps {
  return [
    { step: 'group', method: 'mc-smoe', groups: needed(options, 'groups') },
    { step: 'merge', method: 'frequency', align: isPublished(options) ? 'first' : 'dominant' },
  ];
}

/** As many neurons as the groups would have. */
function mergedNeurons(options: RecipeOptions): Steps {
  return [
    { step: 'group', method: 'mc-smoe', groups: needed(options, 'groups') },
    { step: 'merge', method: 'neurons', align: 'none' },
  ];
}

/** Integers are solved for where the rest is refitted too, else rounded. */
function quantized(options: RecipeOptions): Steps {
  const { weights } = options;
  if (!weights) return [];
  const solved = isInteger(weights) && !weights.dual && !isPublished(options);
  const method = isInteger(weights) && weights.dual ? 'dual' : solved ? 'gptq' : 'round';
  return [{ step: 'quantize', method, weights: formatName(weights) }];
}

function isPublished({ recover }: RecipeOptions): boolean {
  return recover === 'none';
}

function needed(options: RecipeOptions, name: 'groups' | 'rank' | 'neurons'): number {
  const value = options[name];
  if (typeof value === 'number' && value > 0) return value;
  return refuse(name, 'a number above 0 for this recipe', value);
}

function refuse(argument: string, expected: string, received: unknown): never {
  throw new MoeError('RECIPE_INVALID', { argument, expected, received: show(received) });
}
