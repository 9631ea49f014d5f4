/** What `compress` does: a list of typed steps. The schema is the source of the types, of the checks and of recipe.schema.json. */
import { z } from 'zod';
import { show } from '../../arguments.ts';
import { MoeError } from '../../errors.ts';
import { parseWeightFormat } from '../../weight/format.ts';

const share = z.number().gt(0).lte(1);
const multipleText =
  'Widths are multiples of it; default: the largest power of two up to a 64th of the expert’s width, 16 at most';
const layerIndices = z.array(z.int().min(0));

const format = z
  .string()
  .refine(isFormat, { error: "a weight format such as 'bf16', 'int8' or 'int4:64:symmetric'" })
  .describe("Weight format: 'bf16', 'f16', 'f32', 'int8', 'int4', with options as in 'int4:64:symmetric'");

export const groupStep = z
  .strictObject({
    step: z.literal('group'),
    method: z.enum(['mc-smoe', 'hc-smoe', 'ream']).default('mc-smoe'),
    groups: z.number().min(1).describe('Groups a layer, on average where the budget is the model’s'),
    budget: z
      .enum(['model', 'layer'])
      .optional()
      .describe('model: one global budget (default of mc-smoe); layer: the same count each (of the others)'),
    size: z.int().min(2).default(16).describe('ream: experts of a group at most'),
    sequential: z
      .boolean()
      .default(false)
      .describe('ream: by what the compressed layers before give, as published; not with merge by neurons'),
    keepLayers: layerIndices.default([]).describe('Layers that are not merged'),
    router: z
      .enum(['experts', 'cores', 'mean'])
      .default('experts')
      .describe('experts: all router rows stay; cores: those of the dominant experts; mean: weighted means'),
  })
  .refine(({ method, budget }) => method !== 'ream' || budget !== 'model', {
    path: ['budget'],
    error: "'layer' for ream",
  })
  .refine(({ method, sequential }) => !sequential || method === 'ream', {
    path: ['sequential'],
    error: 'only with ream',
  })
  .describe('Which experts share a slot');

export const mergeStep = z
  .strictObject({
    step: z.literal('merge'),
    method: z.enum(['frequency', 'uniform', 'least-squares', 'ties', 'neurons']).default('frequency'),
    align: z.enum(['none', 'first', 'dominant', 'activations', 'ream']).default('dominant'),
    neurons: share.optional().describe('neurons: share of the layer’s neurons that stays; default groups / experts'),
    widths: z.enum(['model', 'layer']).default('model').describe('neurons: where widths are free'),
    multiple: z.int().min(1).max(1024).optional().describe(`neurons: ${multipleText}`),
    ratio: share.optional().describe('neurons: bytes of all experts next to 16-bit originals, in place of neurons'),
  })
  .refine(({ neurons, ratio }) => neurons === undefined || ratio === undefined, {
    path: ['ratio'],
    error: 'neurons or ratio, not both',
  })
  .describe('One expert of each group');

export const pruneStep = z
  .strictObject({
    step: z.literal('prune'),
    method: z.enum(['frequency', 'seer', 'ean', 'reap', 'man', 'msan', 'enumerate']).default('reap'),
    experts: z.int().min(1).describe('Experts that stay in each layer'),
    gates: z.enum(['plain', 'renormalized']).default('plain'),
  })
  .describe('Experts and their router rows removed');

export const slimStep = z
  .strictObject({
    step: z.literal('slim'),
    keep: share.optional().describe('Share of all neurons that stay'),
    ratio: share.optional().describe('In place of keep: bytes of all experts next to 16-bit originals'),
    widths: z
      .enum(['model', 'layer', 'equal'])
      .default('model')
      .describe('Where widths are free: over layers, within a layer, nowhere'),
    multiple: z.int().min(1).max(1024).optional().describe(multipleText),
  })
  .refine(({ keep, ratio }) => (keep === undefined) !== (ratio === undefined), {
    path: ['keep'],
    error: 'either keep or ratio',
  })
  .describe('Neurons removed, expert by expert');

export const factorizeStep = z
  .strictObject({
    step: z.literal('factorize'),
    method: z.enum(['svd', 'whitened', 'losparse', 'delta', 'joint']).default('joint'),
    rank: z.int().min(1).describe('Of each matrix'),
    rows: z.number().min(0).lt(1).default(0).describe('Share of rows kept whole beside the factors'),
    sparse: z
      .string()
      .regex(/^\d+:\d+$/)
      .optional()
      .describe("n:m part beside the factors, as '2:4'"),
    steps: z.int().min(16).max(10_000).optional().describe('losparse: pruning steps, a batch each; default 64'),
    importance: z
      .enum(['layer', 'model'])
      .optional()
      .describe(
        'losparse: whose loss would miss the rows that stay: the layer’s own (default), the model’s (published)',
      ),
    layers: z.record(z.string().regex(/^\d+$/), z.strictObject({ rank: z.int().min(1) })).optional(),
  })
  .describe('Matrices as low rank, with kept rows or an n:m part');

export const sparsifyStep = z
  .strictObject({
    step: z.literal('sparsify'),
    method: z.enum(['magnitude', 'wanda', 'sparsegpt']).default('sparsegpt'),
    pattern: z
      .string()
      .regex(/^\d+:\d+$/)
      .default('2:4'),
    permute: z.boolean().default(false).describe('Reorder neurons so that the mask keeps more'),
  })
  .describe('At most n of every m weights');

export const reconstructStep = z
  .strictObject({
    step: z.literal('reconstruct'),
    steps: z
      .int()
      .min(1)
      .max(100_000)
      .default(250)
      .describe('Gradient steps a layer, a batch of calibration tokens each'),
    rate: z
      .number()
      .gt(0)
      .lte(1)
      .default(0.01)
      .describe('Of the first step, as a share of a matrix’s root mean square'),
  })
  .describe('Matrices moved by gradients of the layer’s own output error');

export const quantizeStep = z
  .strictObject({
    step: z.literal('quantize'),
    method: z.enum(['round', 'gptq', 'awq', 'dual']).default('round'),
    weights: format,
    down: format.optional().describe('Of the down projections; default: weights'),
    layers: z
      .record(z.string().regex(/^\d+$/), z.strictObject({ weights: format, down: format.optional() }))
      .optional()
      .describe('Layers with formats of their own'),
    actOrder: z.boolean().default(false).describe('gptq: columns in falling order of their second moment'),
    damping: z.number().gt(0).lt(1).default(0.01),
    scales: z
      .array(z.enum(['gate-up', 'down']))
      .default(['gate-up', 'down'])
      .describe(
        'awq: gate-up: one scale for each input of all experts of a layer, in the last step; down: one for each neuron',
      ),
    budget: share
      .optional()
      .describe('Bytes next to 16-bit weights: each layer’s banks choose among weights and alternatives'),
    alternatives: z.array(format).max(8).default([]).describe('budget: formats beside weights'),
  })
  .describe('Formats of the expert matrices');

export const stepSchema = z.discriminatedUnion('step', [
  groupStep,
  mergeStep,
  pruneStep,
  slimStep,
  factorizeStep,
  sparsifyStep,
  reconstructStep,
  quantizeStep,
]);

export const recipeSchema = z.strictObject({
  name: z.string().max(200).default('custom'),
  steps: z.array(stepSchema).min(1),
  recover: z
    .enum(['least-squares', 'none'])
    .default('least-squares')
    .describe('least-squares: what a step breaks is refitted by least squares; none: the published form'),
  refit: z
    .array(z.enum(['gate-up', 'router']))
    .default(['gate-up'])
    .describe(
      'Refitted beside down projections, factors and kept rows, with least-squares: gate-up: the rows of gate and up that slim leaves; router: the rows of the router',
    ),
});

export type RecipeStep = z.output<typeof stepSchema>;
export type GroupStep = z.output<typeof groupStep>;
export type MergeStep = z.output<typeof mergeStep>;
export type PruneStep = z.output<typeof pruneStep>;
export type SlimStep = z.output<typeof slimStep>;
export type FactorizeStep = z.output<typeof factorizeStep>;
export type SparsifyStep = z.output<typeof sparsifyStep>;
export type ReconstructStep = z.output<typeof reconstructStep>;
export type QuantizeStep = z.output<typeof quantizeStep>;
/** A checked recipe; recorded as it is in the written folder's config.json. */
export type Recipe = z.output<typeof recipeSchema>;
/** A recipe as it is written: what has a default may be left out. */
export type RecipeInput = z.input<typeof recipeSchema>;

/** The budget of a step that may leave it to its method. */
export function groupBudget({ method, budget }: GroupStep): 'model' | 'layer' {
  return budget ?? (method === 'mc-smoe' ? 'model' : 'layer');
}

/** Checks a recipe and fills in its defaults. Throws RECIPE_INVALID, which points into it: `recipe/steps/0/groups`. */
export function parseRecipe(value: unknown, name = 'recipe'): Recipe {
  const plain = plainOf(value, name);
  const result = recipeSchema.safeParse(plain);
  if (result.success) return result.data;
  const { path, message } = result.error.issues[0] as z.core.$ZodIssue;
  const at = path.reduce((inner: unknown, key) => (inner as Record<PropertyKey, unknown> | undefined)?.[key], plain);
  throw new MoeError('RECIPE_INVALID', {
    argument: [name, ...path.map(String)].join('/'),
    expected: message,
    received: show(at),
  });
}

/** The JSON schema of a recipe file. */
export function recipeJsonSchema(): Record<string, unknown> {
  return z.toJSONSchema(recipeSchema, { io: 'input' }) as Record<string, unknown>;
}

/** A copy as JSON would have it: what is no plain data is refused here. */
function plainOf(value: unknown, argument: string): unknown {
  try {
    const text = JSON.stringify(value);
    if (text !== undefined) return JSON.parse(text);
  } catch {
    // Circular, a bigint, or an object that throws.
  }
  throw new MoeError('RECIPE_INVALID', { argument, expected: 'a name, or plain JSON data', received: show(value) });
}

function isFormat(text: string): boolean {
  try {
    parseWeightFormat(text);
    return true;
  } catch {
    return false;
  }
}
