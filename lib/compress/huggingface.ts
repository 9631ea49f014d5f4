/** A compressed folder as a plain one that other tools open: no moe section, experts of one width and of one count, in floats. */
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import { OutputFolder } from '../checkpoint/folder.ts';
import type { StoredTensor } from '../checkpoint/tensor-source.ts';
import type { WriterEntry } from '../checkpoint/writer.ts';
import { MoeError } from '../errors.ts';
import { familyOf } from '../model/family.ts';
import { type MoeNames, type MoeSpec, slotsOf, widthOf } from '../moe/spec.ts';
import { isInteger, parseWeightFormat } from '../weight/format.ts';
import { ModelWriter } from './model-writer.ts';
import { matrixNames } from './originals.ts';
import { groupBudget, type Recipe, type RecipeStep } from './recipe/schema.ts';

/** Where the families keep the width of an expert and the count of experts; a config may have some of the keys. */
const widthKeys: Readonly<Record<string, string>> = { mixtral: 'intermediate_size', olmoe: 'intermediate_size' };
const expertKeys = ['num_experts', 'num_local_experts'];

/** Refuses, before any work, what a plain folder cannot say. Throws RECIPE_INVALID with the reason. */
export function checkExpressible({ steps }: Recipe): void {
  for (const step of steps) {
    const [expected, received] = obstacle(step) ?? [];
    if (expected !== undefined) refuse(expected, received as string);
  }
}

/** What a plain folder has in place of what a step makes, and that. */
function obstacle(step: RecipeStep): [expected: string, received: string] | undefined {
  switch (step.step) {
    case 'factorize':
    case 'sparsify':
      return ['dense matrices', `the step ${step.step}`];
    case 'quantize': {
      const layered = Object.values(step.layers ?? {}).flatMap(({ weights, down }) => [weights, down ?? weights]);
      const formats = [step.weights, step.down ?? step.weights, ...layered, ...step.alternatives];
      const integers = formats.find((format) => isInteger(parseWeightFormat(format)));
      return integers === undefined ? undefined : ['float matrices', integers];
    }
    case 'slim': {
      const { widths } = step;
      return widths === 'equal' ? undefined : ["one width of all experts (slim: 'equal')", `widths '${widths}'`];
    }
    case 'merge':
      return step.method === 'neurons' ? ['one width of all experts', 'merge by neurons'] : undefined;
    case 'group': {
      const uneven = groupBudget(step) === 'model' && step.router !== 'experts';
      return uneven ? ["as many groups in every layer (budget 'layer')", "budget 'model'"] : undefined;
    }
    case 'prune':
    case 'reconstruct':
      return undefined;
  }
}

/**
 * Writes a compressed folder as a plain one. Merged experts under the original router are written out, each with the matrices of its group,
 * so that such a folder is as large as the original; pruned ones are renumbered.
 *
 * @throws MoeError RECIPE_INVALID where a plain folder cannot say what the layers are, FILE_EXISTS, FILE_UNWRITABLE, and what opening a
 * model throws
 */
export async function exportHuggingFace(
  folder: string,
  out: string,
  { force = false, signal }: { readonly force?: boolean; readonly signal?: AbortSignal | undefined } = {},
): Promise<void> {
  await using checkpoint = await Checkpoint.open(folder, { signal });
  const family = familyOf(checkpoint.config);
  const { layers } = family.config(checkpoint.config);
  const moe = layers.flatMap(({ block }, index) =>
    block.kind === 'moe' ? [{ spec: block.moe, names: family.names.layer(index).moe }] : [],
  );
  const width = same(
    moe.flatMap(({ spec }) => widths(spec)),
    'one width of all experts',
  );
  const experts = same(
    moe.map(({ spec }) => spec.router.experts),
    'as many experts in every layer',
  );
  const choices = same(
    moe.map(({ spec }) => spec.router.topK),
    'as many choices a token in every layer',
  );
  for (const { spec } of moe) requirePlain(spec);
  const { moe: _, ...config } = checkpoint.config;
  const changed: Record<string, unknown> = {
    ...config,
    [widthKeys[family.type] ?? 'moe_intermediate_size']: width,
    num_experts_per_tok: choices,
  };
  for (const key of expertKeys) if (Object.hasOwn(config, key)) changed[key] = experts;

  const replaced = new Set(
    moe.flatMap(({ spec, names }) =>
      Array.from({ length: slotsOf(spec) }, (__, slot) => matrixNames(names.expert(slot))).flat(),
    ),
  );
  const kept = [...checkpoint.tensors.keys()].filter((name) => !replaced.has(name));
  await using target = await OutputFolder.create(out, { force });
  const writer = new ModelWriter(target, checkpoint, kept, moe.length);
  await writer.copyKept(() => signal?.throwIfAborted());
  for (const [position, { spec, names }] of moe.entries()) {
    signal?.throwIfAborted();
    const pairs = plainExperts(spec, names);
    const entries = pairs.map(([name, source]): WriterEntry => ({ ...checkpoint.entry(source), name }));
    const sources = pairs.map(([, source]) => source);
    await writer.layer(position, entries, copied(checkpoint, entries, sources));
  }
  await writer.finish(changed);
  await target.commit();
}

/** Every expert that the router chooses, with the matrices of its slot: their names, and those of the sources. */
function plainExperts(spec: MoeSpec, names: MoeNames): (readonly [name: string, source: string])[] {
  return Array.from({ length: spec.router.experts }, (_, expert) => {
    const from = matrixNames(names.expert(spec.merged?.groupOf[expert] ?? expert));
    return matrixNames(names.expert(expert)).map((name, at) => [name, from[at] as string] as const);
  }).flat();
}

async function* copied(
  checkpoint: Checkpoint,
  entries: readonly WriterEntry[],
  sources: readonly string[],
): AsyncGenerator<StoredTensor> {
  for (const [at, entry] of entries.entries()) {
    yield { ...entry, data: (await checkpoint.read(sources[at] as string)) as StoredTensor['data'] };
  }
}

function widths(spec: MoeSpec): number[] {
  return Array.from({ length: slotsOf(spec) }, (_, slot) => widthOf(spec, slot));
}

function requirePlain({ stored }: MoeSpec): void {
  if (!stored) return;
  if (stored.baseOf) refuse('dense matrices', 'experts that share a base');
  for (const matrix of [stored.gate, stored.up, stored.down]) {
    if (!matrix) continue;
    const { base, lowRank, rows, sparse } = matrix;
    if (!base || lowRank || rows || sparse) refuse('dense matrices', Object.keys(matrix).join(' + '));
    if ('groupSize' in base) refuse('float matrices', base.format);
  }
}

function same(values: readonly number[], expected: string): number {
  const found = [...new Set(values)];
  if (found.length !== 1) refuse(expected, found.slice(0, 8).join(', '));
  return found[0] as number;
}

function refuse(expected: string, received: string): never {
  throw new MoeError('RECIPE_INVALID', { argument: 'format', expected: `${expected} for 'huggingface'`, received });
}
