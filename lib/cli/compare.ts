import { Command } from 'commander';
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import { compressedSection } from '../checkpoint/compressed.ts';
import { readText } from '../checkpoint/text-file.ts';
import { storedExperts } from '../compress/report/stored-experts.ts';
import type { Device } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import { familyOf } from '../model/family.ts';
import { Model } from '../model/model.ts';
import type { WeightFormat } from '../weight/format.ts';
import { abortOnInterrupt } from './interrupt.ts';
import {
  type CommonOptions,
  deviceOption,
  openChosenDevice,
  positiveInteger,
  weightsOption,
  withCommonOptions,
} from './options.ts';
import { megabytes, Progress, print, printJson, table } from './output.ts';
import { type LayerChoices, type LayerOverlap, routingOverlap } from './routing-overlap.ts';

interface CompareOptions extends CommonOptions {
  text: string;
  window: number;
  windows?: number;
  rounds: number;
  device: string;
  weights?: WeightFormat;
}

/** `node-moe compare`: two models side by side on one text. */
export function compareCommand(): Command {
  return withCommonOptions(new Command('compare'))
    .description('two models side by side: size, quality, speed, and how often they choose alike')
    .argument('<a>', 'model folder, the one to compare with')
    .argument('<b>', 'model folder')
    .requiredOption('--text <file>', 'text file (.gz is unpacked)')
    .option('--window <tokens>', 'tokens a window; each is run on its own', positiveInteger, 256)
    .option('--windows <count>', 'only the first so many windows', positiveInteger)
    .option('--rounds <count>', 'timed calls; the median counts', positiveInteger, 5)
    .addOption(deviceOption())
    .addOption(weightsOption())
    .addHelpText('after', '\nExample:\n  $ node-moe compare ./model ./model-merged --text heldout.txt --windows 24')
    .action(compare);
}

interface Side {
  readonly model: string;
  /** `weights`: on the device. */
  readonly bytes: { readonly disk: number; readonly weights: number };
  readonly parameters: number;
  readonly nll: number;
  readonly perplexity: number;
  /** Tokens a second: of a window, and one token after another behind it. */
  readonly prefillTokensPerSecond: number;
  readonly decodeTokensPerSecond: number;
}

/** What is compared place by place: tokens of all windows, in order. */
interface Choices {
  readonly ids: Int32Array;
  /** The most likely next token after each. */
  readonly greedy: Int32Array;
  readonly layers: readonly LayerChoices[];
}

interface Comparison {
  readonly text: string;
  readonly device: string;
  /** Of all windows. */
  readonly tokens: number;
  readonly models: readonly [Side, Side];
  /** Share of places after which both models hold the same token most likely; null: their tokens differ. */
  readonly greedyAgreement: number | null;
  /** Of the MoE layers; null: their tokens or layers differ. */
  readonly routing: { readonly mean: number | null; readonly layers: readonly LayerOverlap[] } | null;
}

async function compare(a: string, b: string, options: CompareOptions): Promise<void> {
  const progress = new Progress({ quiet: options.json === true });
  const signal = abortOnInterrupt();
  const text = await readText(options.text);
  await using device = await openChosenDevice(options);
  // One after the other: both need not fit into memory at once.
  const run = { device, progress, signal };
  const first = await measure(a, text, options, run);
  const second = await measure(b, text, options, run);
  progress.end();
  const comparison: Comparison = {
    text: options.text,
    device: device.name,
    tokens: first.choices.ids.length,
    models: [first.side, second.side],
    ...agreement(first.choices, second.choices),
  };
  if (options.json) printJson(comparison);
  else printComparison(comparison);
}

interface Run {
  readonly device: Device;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

async function measure(
  folder: string,
  text: string,
  options: CompareOptions,
  { device, progress, signal }: Run,
): Promise<{ side: Side; choices: Choices }> {
  const { window, windows = Number.POSITIVE_INFINITY, weights, rounds, text: file } = options;
  const { parameters, groupOf } = await inspect(folder, signal);
  await using model = await Model.open(folder, { device, weights, signal, onProgress: progress.loading(folder) });
  const ids = model.tokenizer.encode(text);
  const count = Math.min(windows, Math.floor(ids.length / window));
  if (count === 0) {
    const expected = `a text of at least one window of ${window} tokens`;
    throw new MoeError('INVALID_ARGUMENT', { argument: file, expected, received: `${ids.length} tokens` });
  }
  const used = ids.subarray(0, count * window);
  const { nll } = await model.evaluate(used, {
    window,
    signal,
    onProgress: ({ done, total }) => progress.update(`evaluate ${folder}`, done, total),
  });
  const greedy = new Int32Array(used.length);
  const layers = model.config.layers.flatMap(({ block }, layer): LayerChoices[] => {
    if (block.kind !== 'moe') return [];
    const { topK, experts } = block.moe.router;
    return [{ layer, topK, experts, slotOf: groupOf.get(layer), ids: new Int32Array(used.length * topK) }];
  });
  for (let at = 0; at < used.length; at += window) {
    progress.update(`compare ${folder}`, at, used.length);
    const own = used.subarray(at, at + window);
    greedy.set(await greedyTokens(model, own, signal), at);
    const trace = await model.trace(own, { include: ['experts'], signal });
    for (const { layer, topK, ids: all } of layers) all.set(trace.layers[layer]?.ids as Int32Array, at * topK);
  }
  const speed = await speedOf(model, used.subarray(0, window), rounds, signal);
  const bytes = { disk: model.bytes, weights: model.memory().weights };
  return {
    side: { model: folder, bytes, parameters, nll, perplexity: Math.exp(nll), ...speed },
    choices: { ids: used, greedy, layers },
  };
}

/** Parameters of the model; and the slot of each original expert in the layers whose router chooses among slots. */
async function inspect(
  folder: string,
  signal: AbortSignal,
): Promise<{ parameters: number; groupOf: Map<number, Int32Array> }> {
  using checkpoint = await Checkpoint.open(folder, { signal });
  const { config: read, names } = familyOf(checkpoint.config);
  const others = new Set(checkpoint.tensors.keys());
  let parameters = 0;
  for (const [index, { block }] of read(checkpoint.config).layers.entries()) {
    if (block.kind !== 'moe') continue;
    for (const part of storedExperts(checkpoint, block.moe, names.layer(index).moe)) {
      parameters += part.parameters;
      for (const tensor of part.tensors) others.delete(tensor);
    }
  }
  for (const name of others) parameters += checkpoint.entry(name).shape.reduce((product, size) => product * size, 1);
  const layers = compressedSection(checkpoint.config)?.layers ?? new Map();
  const bySlots = [...layers].filter(([, { router }]) => router === 'slots');
  return { parameters, groupOf: new Map(bySlots.map(([layer, { groupOf }]) => [layer, groupOf])) };
}

async function greedyTokens(model: Model, ids: Int32Array, signal: AbortSignal): Promise<Int32Array> {
  const { data, shape } = await model.logits(ids, { signal });
  const [tokens, vocabulary] = shape;
  return Int32Array.from({ length: tokens }, (_, token) => {
    const row = data.subarray(token * vocabulary, (token + 1) * vocabulary);
    let best = 0;
    for (let id = 1; id < vocabulary; id++) if ((row[id] as number) > (row[best] as number)) best = id;
    return best;
  });
}

/** New tokens of a timed call. */
const newTokens = 32;

/** Medians of calls that continue a window, after one that compiles the programs and touches the memory. */
async function speedOf(
  model: Model,
  window: Int32Array,
  rounds: number,
  signal: AbortSignal,
): Promise<Pick<Side, 'prefillTokensPerSecond' | 'decodeTokensPerSecond'>> {
  const maxTokens = Math.min(newTokens, Math.max(2, model.config.context - window.length));
  const prompt = window.subarray(0, model.config.context - maxTokens);
  const [prefill, decode]: number[][] = [[], []];
  for (let round = -1; round < rounds; round++) {
    const started = performance.now();
    let first = started;
    let tokens = 0;
    for await (const _ of model.generate(prompt, { maxTokens, stopAtEos: false, signal })) {
      if (tokens++ === 0) first = performance.now();
    }
    if (round < 0) continue;
    prefill?.push(prompt.length / ((first - started) / 1000));
    decode?.push((tokens - 1) / ((performance.now() - first) / 1000));
  }
  return { prefillTokensPerSecond: median(prefill ?? []), decodeTokensPerSecond: median(decode ?? []) };
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] as number;
}

function agreement(a: Choices, b: Choices): Pick<Comparison, 'greedyAgreement' | 'routing'> {
  if (a.ids.length !== b.ids.length || a.ids.some((id, at) => id !== b.ids[at])) {
    return { greedyAgreement: null, routing: null };
  }
  const same = a.greedy.reduce((sum, id, at) => sum + (id === b.greedy[at] ? 1 : 0), 0);
  const greedyAgreement = same / a.greedy.length;
  const alike = a.layers.length === b.layers.length && a.layers.every(({ layer }, at) => layer === b.layers[at]?.layer);
  if (!alike || a.layers.length === 0) return { greedyAgreement, routing: null };
  const layers = a.layers.map((own, at) => routingOverlap(own, b.layers[at] as LayerChoices));
  const known = layers.flatMap(({ overlap }) => (overlap === null ? [] : [overlap]));
  const mean = known.length > 0 ? known.reduce((sum, overlap) => sum + overlap, 0) / known.length : null;
  return { greedyAgreement, routing: { mean, layers } };
}

function printComparison({ models, tokens, text, greedyAgreement, routing }: Comparison): void {
  const [a, b] = models;
  const row = (name: string, of: (side: Side) => number, show: (value: number) => string): string[] => [
    name,
    show(of(a)),
    show(of(b)),
    `${(100 * (of(b) / of(a) - 1)).toFixed(1)} %`,
  ];
  const rows = [
    row('disk', ({ bytes }) => bytes.disk, megabytes),
    row('weights in memory', ({ bytes }) => bytes.weights, megabytes),
    row('parameters', ({ parameters }) => parameters, String),
    row(
      'NLL, nats a token',
      ({ nll }) => nll,
      (value) => value.toFixed(4),
    ),
    row(
      'perplexity',
      ({ perplexity }) => perplexity,
      (value) => value.toFixed(3),
    ),
    row(
      'prefill, tokens/s',
      (side) => side.prefillTokensPerSecond,
      (value) => value.toFixed(0),
    ),
    row(
      'decode, tokens/s',
      (side) => side.decodeTokensPerSecond,
      (value) => value.toFixed(0),
    ),
  ];
  print(table(['', a.model, b.model, 'change'], rows));
  const share = (value: number | null): string => (value === null ? 'not comparable' : `${(100 * value).toFixed(1)} %`);
  const different = 'not comparable: the tokenizers differ';
  print(`\n${tokens} tokens of ${text}`);
  print(`greedy tokens agree: ${greedyAgreement === null ? different : share(greedyAgreement)}`);
  if (!routing) {
    print(`chosen experts agree: ${greedyAgreement === null ? different : 'not comparable: the MoE layers differ'}`);
    return;
  }
  print(`chosen experts agree: ${share(routing.mean)}`);
  for (const { layer, overlap, by } of routing.layers) print(`  layer ${layer}: ${share(overlap)}${notes[by]}`);
}

const notes: Record<LayerOverlap['by'], string> = {
  experts: '',
  slots: ', by stored experts: a router chooses among those',
  nothing: ', the routers choose among different experts',
};
