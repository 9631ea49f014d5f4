/** One row of ../compression-layer.ts: FOLDER THREADS NAME. Prints JSON lines: the memory at the start, each step, the peak. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import type { ExpertMatrices } from '../../lib/compress/expert.ts';
import { denseExpert, type Expert, type ExpertLayer } from '../../lib/compress/experts.ts';
import { LayerContext } from '../../lib/compress/layer-context.ts';
import { mergeShares, uniformWeights } from '../../lib/compress/merge/mean.ts';
import { alignMembers, type Group, meanOf } from '../../lib/compress/merge/members.ts';
import { parseRecipe, type RecipeInput, type RecipeStep } from '../../lib/compress/recipe/schema.ts';
import { moeLayers, openSource, type Source } from '../../lib/compress/source.ts';
import { calibrate } from '../../lib/compress/statistics/calibrate.ts';
import { LayerStream } from '../../lib/compress/statistics/layer-stream.ts';
import { calibrationWindows } from '../../lib/compress/statistics/windows.ts';
import { makeStep } from '../../lib/compress/steps/index.ts';
import { finalForms } from '../../lib/compress/steps/quantize.ts';
import { compress, openDevice } from '../../lib/index.ts';
import { experts, width } from './layer-model.ts';

const [folder = '', threads, name = ''] = process.argv.slice(2);
const windows = join(folder, 'windows.safetensors');
const recipes: Record<string, RecipeInput> = {
  svd: { steps: [{ step: 'factorize', method: 'whitened', rank: 128 }], recover: 'none' },
  gptq: { steps: [{ step: 'quantize', method: 'gptq', weights: 'int4:128:symmetric' }] },
  slim: { steps: [{ step: 'slim', keep: 0.5, widths: 'equal' }] },
  awq: { steps: [{ step: 'quantize', method: 'awq', weights: 'int4:128:symmetric' }] },
  delta: { steps: [{ step: 'factorize', method: 'delta', rank: 128 }] },
};

const print = (line: Record<string, number | string>): boolean => process.stdout.write(`${JSON.stringify(line)}\n`);

/** Wall and processor time of several stretches of work. */
class Clock {
  #wall = 0;
  #processor = 0;

  async run<T>(body: () => Promise<T>): Promise<T> {
    const [began, used] = [performance.now(), process.cpuUsage()];
    const result = await body();
    const { user, system } = process.cpuUsage(used);
    this.#wall += (performance.now() - began) / 1000;
    this.#processor += (user + system) / 1e6;
    return result;
  }

  print(step: string): void {
    print({ step, seconds: this.#wall, processor: this.#processor });
  }
}

async function timed<T>(step: string, body: () => Promise<T>): Promise<T> {
  const clock = new Clock();
  const result = await clock.run(body);
  clock.print(step);
  return result;
}

async function whole(kind: string, groups: number): Promise<void> {
  const method = kind === 'neurons' ? ({ method: kind, widths: 'layer' } as const) : {};
  const merge: RecipeInput = {
    steps: [
      { step: 'group', groups },
      { step: 'merge', ...method },
    ],
  };
  const out = join(folder, 'compressed');
  try {
    await timed('all', () => compress(folder, { out, calibrate: [windows], recipe: recipes[kind] ?? merge, device }));
  } finally {
    await rm(out, { recursive: true, force: true });
  }
}

async function steps(kind: string, groups: number, source: Source, stream: LayerStream): Promise<void> {
  const [own] = moeLayers(source);
  if (!own) throw new Error('no layer of experts');
  await stream.embed();
  await timed('attention', () => stream.enter(0));
  const recipe = parseRecipe(recipes[kind] ?? { steps: [{ step: 'merge' }] });
  const context = new LayerContext(0, own.spec, own.names, stream, source.checkpoint, recipe);
  const layer = context.originals({ format: 'bf16' });
  if (groups < experts) {
    const merged = await merge(layer, context, groups);
    if (kind === 'svd')
      await timed('factorize', () => makeStep(recipe.steps[0] as RecipeStep).apply(merged, context, undefined));
    return;
  }
  const formed = { ...layer, forms: finalForms(recipe, 0, layer.forms, []) };
  const widths = new Array<number>(experts).fill(width / 2);
  for (const step of recipe.steps) await timed(step.step, () => makeStep(step).apply(formed, context, widths));
}

/** The mean of `groups` groups of equal size, their members aligned to the first one. */
async function merge(layer: ExpertLayer, context: LayerContext, groups: number): Promise<ExpertLayer> {
  const size = experts / groups;
  const labels = Array.from({ length: experts }, (_, expert) => Math.floor(expert / size));
  const weights = uniformWeights(experts);
  const grouped = { ...layer, groupOf: Int32Array.from(labels) };
  const slots: Expert[] = [];
  const [aligning, averaging] = [new Clock(), new Clock()];
  for (let group = 0; group < groups; group++) {
    const indices = Array.from({ length: size }, (_, at) => group * size + at);
    const members: ExpertMatrices[] = [];
    for (const expert of indices) members.push(await context.original(expert));
    const own = { members, shares: mergeShares(weights, indices), dominant: 0 };
    const aligned = await aligning.run(() => alignMembers([own], grouped, context, 'dominant'));
    slots.push(denseExpert(await averaging.run(async () => meanOf(aligned[0] as Group))));
  }
  aligning.print('align');
  averaging.print('mean');
  return { ...grouped, slots };
}

const device = await openDevice('cpu', { threads: Number(threads) });
print({ base: process.memoryUsage.rss() });
if (name.startsWith('compress ')) {
  const [, kind = '', groups = experts] = name.split(' ');
  await whole(kind, Number(groups));
} else {
  const [kind = '', groups = experts] = name.split(' ');
  const checkpoint = await Checkpoint.open(folder);
  const source = openSource(checkpoint);
  const ids = await calibrationWindows([windows], {
    tokenizer: () => checkpoint.tokenizer(),
    vocabulary: source.config.vocabulary,
    context: source.config.context,
  });
  const stream = new LayerStream(device, checkpoint, source.family, ids);
  if (kind === 'statistics') await timed('pass', () => calibrate(stream, () => undefined));
  else await steps(kind, Number(groups), source, stream);
  stream.dispose();
}
print({ peak: process.resourceUsage().maxRSS * 1024 });
device.dispose();
