/** Recipes for a size: the settings of a named recipe under which its experts take at most a share of their 16-bit originals. */
import { show } from '../../arguments.ts';
import type { StoredMatrix } from '../../checkpoint/stored-matrix.ts';
import { MoeError } from '../../errors.ts';
import { isInteger, type WeightFormat } from '../../weight/format.ts';
import type { PartForms } from '../experts.ts';
import { jointRank } from '../factorize/gated.ts';
import { isGated, originalBytes, type PlannedLayer, plannedBytes, refuseRatio } from '../size.ts';
import { isRecipeName, namedRecipe, type RecipeName, type RecipeOptions } from './presets.ts';
import type { Recipe } from './schema.ts';

/** The model's MoE layers, stored in the formats that a recipe gives them; what a recipe does besides is of no account. */
export type LayersUnder = (recipe: Recipe | undefined) => readonly PlannedLayer[];

interface Target {
  readonly ratio: number;
  readonly options: RecipeOptions;
  /** Under the format of the options, or as in the source. */
  readonly layers: readonly PlannedLayer[];
  readonly under: LayersUnder;
}

/** The settings of each preset, chosen; what the caller set stays where the preset has more than one. */
const choices: Record<RecipeName, (target: Target) => RecipeOptions> = {
  'mc-smoe': chooseFactors,
  merge: (target) => ({ groups: averageSlots(target) }),
  reap: (target) => ({ groups: Math.floor(averageSlots(target)) }),
  'hc-smoe': (target) => ({ groups: Math.floor(averageSlots(target)) }),
  slim: (target) => slimTo(target, 1),
  neurons: (target) => {
    const { groups = Math.ceil(fewestExperts(target.layers) / 2) } = target.options;
    return { groups, ...slimTo(target, groups / fewestExperts(target.layers)) };
  },
  best: chooseBest,
};

/** What a ratio decides itself, so that it cannot be set beside it. */
const decided: Record<RecipeName, readonly ('groups' | 'rank' | 'neurons')[]> = {
  'mc-smoe': ['rank'],
  merge: ['groups'],
  reap: ['groups'],
  'hc-smoe': ['groups'],
  slim: ['neurons'],
  neurons: ['neurons'],
  best: ['neurons'],
};

/**
 * A named recipe whose experts take at most `ratio` of the bytes that the originals take in 16 bits (codes, scales, offsets, indices and
 * factors counted), and as nearly that as its settings allow.
 *
 * @throws MoeError RECIPE_INVALID for a ratio outside 0 … 1 or out of reach, then with the least that can be had
 */
export function recipeForRatio(name: string, ratio: number, options: RecipeOptions, under: LayersUnder): Recipe {
  if (!(typeof ratio === 'number' && ratio > 0 && ratio < 1)) refuse('targetRatio', 'a number between 0 and 1', ratio);
  if (!isRecipeName(name)) return namedRecipe(name, options);
  for (const option of decided[name]) {
    if (options[option] !== undefined)
      refuse(option, 'nothing beside a target ratio, which chooses it', options[option]);
  }
  const target: Target = { ratio, options, layers: under(formatsOnly(options)), under };
  return namedRecipe(name, { ...options, ...choices[name](target) });
}

/** A recipe that does nothing but store in the format of the options. */
function formatsOnly(options: RecipeOptions): Recipe | undefined {
  return options.weights && namedRecipe('best', { weights: options.weights, recover: 'none' });
}

/** Slots a layer on average that fit, at least 1 in each. */
function averageSlots({ ratio, layers }: Target, slotBytes = dense): number {
  const bytes = Math.max(...layers.map(slotBytes));
  const slots = Math.floor((ratio * originalBytes(layers)) / bytes);
  if (slots < layers.length) refuseRatio(ratio, (layers.length * bytes) / originalBytes(layers));
  return Math.min(slots / layers.length, fewestExperts(layers));
}

/** Bytes of one whole expert. */
function dense(layer: PlannedLayer): number {
  return plannedBytes(layer, [layer.spec.width]);
}

/** Half the experts a layer, a quarter, and so on, until factors of a fair rank fit; then the largest rank that does. */
function chooseFactors(target: Target): RecipeOptions {
  const { ratio, options, layers } = target;
  const experts = fewestExperts(layers);
  const most = Math.min(...layers.map(({ spec }) => Math.min(spec.hidden, spec.width)));
  const share = options.rows ?? 0;
  const bytes = (groups: number, rank: number): number =>
    groups *
    layers.reduce((sum, layer) => sum + plannedBytes(layer, [layer.spec.width], factored(layer, rank, share)), 0);
  const budget = ratio * originalBytes(layers);
  let groups = options.groups ?? Math.ceil(experts / 2);
  const fair = Math.ceil(most / 8);
  while (options.groups === undefined && groups > 1 && bytes(groups, fair) > budget) groups = Math.ceil(groups / 2);
  if (bytes(groups, 1) > budget) refuseRatio(ratio, bytes(groups, 1) / originalBytes(layers));
  let rank = 1;
  while (rank < most && bytes(groups, rank + 1) <= budget) rank++;
  return { groups, rank };
}

/** The parts of a factorized slot: gate and up share their A. */
function factored({ spec }: PlannedLayer, rank: number, share: number) {
  const { hidden, width } = spec;
  return (forms: PartForms, matrix: 'gate' | 'up' | 'down'): StoredMatrix => {
    const shared = isGated(spec) && matrix !== 'down';
    const own = shared ? Math.min(jointRank(rank, width, hidden), 2 * width, hidden) : rank;
    const rows = Math.round(share * (matrix === 'down' ? hidden : width));
    return {
      lowRank: { form: forms.factors, rank: [own], sharedA: shared && matrix === 'up' },
      ...(rows > 0 && { rows: { form: forms.kept, count: [rows] } }),
    };
  };
}

/** Neurons for the ratio, counted when their worth is known; whether one a slot fits is known now. */
function slimTo({ ratio, layers }: Target, slots: number): RecipeOptions {
  const bytes = layers.reduce((sum, layer) => sum + slots * layer.spec.router.experts * plannedBytes(layer, [1]), 0);
  if (bytes > ratio * originalBytes(layers)) refuseRatio(ratio, bytes / originalBytes(layers));
  return { ratio };
}

const int8: WeightFormat = { format: 'int8' };
const int4: WeightFormat = { format: 'int4' };
/** Where neurons go as well, large groups: their scales cost as many neurons. */
const leanInt4: WeightFormat = { format: 'int4', groupSize: 128, offset: false };

/** A pinned format, and neurons removed where it does not suffice; else the widest of int8 and int4 that fits. */
function chooseBest(target: Target): RecipeOptions {
  const { ratio, options, under } = target;
  const fits = (weights: WeightFormat | undefined): boolean => {
    const layers = under(formatsOnly({ weights }));
    const bytes = layers.reduce((sum, layer) => sum + layer.spec.router.experts * dense(layer), 0);
    return bytes <= ratio * originalBytes(layers);
  };
  if (options.weights) return isInteger(options.weights) && fits(options.weights) ? {} : slimTo(target, 1);
  if (fits(int8)) return { weights: int8 };
  if (fits(int4)) return { weights: int4 };
  return { weights: leanInt4, ...slimTo({ ...target, layers: under(formatsOnly({ weights: leanInt4 })) }, 1) };
}

function fewestExperts(layers: readonly PlannedLayer[]): number {
  return Math.min(...layers.map(({ spec }) => spec.router.experts));
}

function refuse(argument: string, expected: string, received: unknown): never {
  throw new MoeError('RECIPE_INVALID', { argument, expected, received: show(received) });
}
