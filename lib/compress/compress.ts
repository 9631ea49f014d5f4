import { readFileSync } from 'node:fs';
import { realpath, rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import { invalid, requireCallback, requireInteger, requireObject } from '../arguments.ts';
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import { compressedJson, compressedSection } from '../checkpoint/compressed.ts';
import { OutputFolder } from '../checkpoint/folder.ts';
import { Device } from '../device/device.ts';
import { openDevice } from '../device/open.ts';
import { MoeError } from '../errors.ts';
import type { WeightFormat } from '../weight/format.ts';
import type { ExpertLayer } from './experts.ts';
import { checkExpressible, exportHuggingFace } from './huggingface.ts';
import { LayerRun } from './layer-run.ts';
import { ModelWriter } from './model-writer.ts';
import {
  type FinishedLayer,
  progressKey,
  readProgress,
  removeProgress,
  type SavedProgress,
  writeProgress,
} from './progress-file.ts';
import { namedRecipe } from './recipe/presets.ts';
import { recipeForRatio } from './recipe/ratio.ts';
import { parseRecipe, type Recipe, type RecipeInput } from './recipe/schema.ts';
import type { LayerReport } from './report/report.ts';
import { checkRecipe, moeLayers, openSource, type Source } from './source.ts';
import { calibrate as collectStatistics, type LayerStatistics } from './statistics/calibrate.ts';
import { readStatistics, statisticsKey, writeStatistics } from './statistics/file.ts';
import { LayerStream } from './statistics/layer-stream.ts';
import { leaveWith } from './statistics/leave.ts';
import { calibrationWindows } from './statistics/windows.ts';
import type { Grouping } from './steps/group.ts';
import { makeStep } from './steps/index.ts';
import { plannedLayers } from './steps/quantize.ts';
import type { Json } from './steps/step.ts';

export interface CompressOptions {
  /** New model folder. Work happens in `<out>.partial`; it is renamed at the end. */
  out: string;
  /** A name, or the steps themselves. Default 'merge'. */
  recipe?: string | RecipeInput | undefined;
  /** Of a named recipe: groups a layer, on average; 1 … experts. */
  groups?: number | undefined;
  /** Of a named recipe: rank of each matrix, share of rows kept beside, share of neurons that stay. */
  rank?: number | undefined;
  rows?: number | undefined;
  neurons?: number | undefined;
  /**
   * Of a named recipe: bytes that the experts take at most, everything stored counted, next to their originals in 16 bits; above 0, below 1.
   * The recipe's other settings are then chosen, within the format that `weights` pins.
   */
  targetRatio?: number | undefined;
  /** File of the light calibration statistics: read where it is there, else written. */
  statistics?: string | undefined;
  /** Text files, or safetensors files of token ids [windows, tokens]; see {@link calibrationWindows}. */
  calibrate: readonly string[];
  /** At most so many tokens of them. */
  calibrationTokens?: number | undefined;
  /** Of a named recipe: default 'least-squares'; 'none' is the published form. */
  recover?: string | undefined;
  /** Of a named recipe: how the experts are stored. Default: as in the source. */
  weights?: WeightFormat | undefined;
  /** Of the draw of calibration windows. Default 0. */
  seed?: number | undefined;
  /** Replace an existing `out`. */
  force?: boolean | undefined;
  /** Go on with what a stopped run of the same inputs left in `<out>.partial`; the result is the same to the byte. */
  resume?: boolean | undefined;
  /** 'huggingface': a plain folder without a moe section, which other tools open; refused where it cannot say what the recipe makes. */
  format?: 'huggingface' | undefined;
  /** Default 'auto'. A device given open stays open. */
  device?: string | Device | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: { phase: string; done: number; total: number }) => void) | undefined;
}

export interface CompressResult {
  readonly recipe: Recipe;
  readonly layers: readonly LayerReport[];
  /** Of the weight files on disk. */
  readonly bytes: { readonly before: number; readonly after: number };
  /** Elements of all matrices and vectors; scales, offsets and indices do not count. */
  readonly parameters: { readonly before: number; readonly after: number };
  readonly seconds: number;
}

/** What the parts of one compression share. */
interface Job {
  readonly source: Source;
  readonly recipe: Recipe;
  readonly windows: readonly Int32Array[];
  readonly stream: LayerStream;
  readonly folder: OutputFolder;
  readonly signal: AbortSignal | undefined;
  /** Recorded beside the recipe. */
  readonly calibration: { readonly windows: number; readonly tokens: number; readonly seed: number };
  /** Also where an abort is noticed between steps. */
  report(phase: string, done: number, total: number): void;
}

/**
 * Runs a recipe over a model and writes a new model folder, one layer in memory at a time. What a step breaks is refitted on what the
 * compressed layers before really give, unless the recipe says no. The same inputs give the same bytes.
 *
 * @param source Hugging Face folder
 * @throws MoeError INVALID_ARGUMENT, RECIPE_INVALID, FILE_EXISTS, FILE_UNWRITABLE, and what opening a model throws; an abort rejects with the signal's reason. `out`
 * is untouched then; beside it `<out>.partial` stays where a layer was finished, for `resume`.
 */
export async function compress(source: string, options: CompressOptions): Promise<CompressResult> {
  return requireObject(options).format === undefined ? compressFolder(source, options) : compressPlain(source, options);
}

/** Compresses to a folder beside `out`, which a stopped run can resume, and writes that as a plain one. */
async function compressPlain(source: string, options: CompressOptions): Promise<CompressResult> {
  const { format, out, force, signal } = options;
  if (format !== 'huggingface') throw invalid('format', "'huggingface', or none", format);
  if (!isPath(out)) throw invalid('out', 'a path', out);
  await refuseSource(source, out);
  // The output must be free before hours of work, as without the detour.
  await (await OutputFolder.create(out, { force: force === true }))[Symbol.asyncDispose]();
  const between = `${out}.compressed`;
  const result = await compressFolder(source, {
    ...options,
    out: between,
    force: force === true || options.resume === true,
  });
  try {
    await exportHuggingFace(between, out, { force: force === true, signal });
  } finally {
    await rm(between, { recursive: true, force: true });
  }
  await using plain = await Checkpoint.open(out, { signal });
  const parameters = [...plain.tensors.values()].reduce((sum, { shape }) => sum + elements(shape), 0);
  return {
    ...result,
    bytes: { ...result.bytes, after: plain.bytes },
    parameters: { ...result.parameters, after: parameters },
  };
}

async function compressFolder(source: string, options: CompressOptions): Promise<CompressResult> {
  const started = performance.now();
  const { out, calibrate, signal, calibrationTokens: limit, seed = 0, device: given } = requireObject(options);
  // What is wrong with the recipe itself is said before the model is opened.
  const early = options.targetRatio === undefined ? recipeOf(options) : undefined;
  if (!isPath(out)) throw invalid('out', 'a path', out);
  if (!Array.isArray(calibrate) || ![...calibrate].every(isPath))
    throw invalid('calibrate', 'a list of paths', calibrate);
  if (options.statistics !== undefined && !isPath(options.statistics))
    throw invalid('statistics', 'a path', options.statistics);
  if (limit !== undefined) requireInteger(limit, 'calibrationTokens');
  requireInteger(seed, 'seed', 0);
  requireCallback(options.onProgress, 'onProgress');
  await using checkpoint = await Checkpoint.open(source, { signal });
  const checked = openSource(checkpoint);
  const recipe = early ?? recipeWithin(options, checked);
  checkRecipe(checked, recipe);
  if (options.format) checkExpressible(recipe);
  const { vocabulary, context } = checked.config;
  await refuseSource(source, out);
  // Discards what it holds unless it was committed or kept.
  await using folder = await OutputFolder.create(out, {
    force: options.force === true,
    resume: options.resume === true,
  });
  const tokenizer = () => checkpoint.tokenizer();
  const windows = await calibrationWindows(calibrate, { tokenizer, limit, seed, vocabulary, context, signal });
  const device = given instanceof Device ? given : await openDevice(given);
  const stream = new LayerStream(device, checkpoint, checked.family, windows, signal);
  try {
    const job: Job = {
      source: checked,
      recipe,
      windows,
      stream,
      folder,
      signal,
      calibration: { windows: windows.length, tokens: stream.tokens, seed },
      report: (phase, done, total) => {
        signal?.throwIfAborted();
        options.onProgress?.({ phase, done, total });
      },
    };
    const saved = await readProgress(folder, progressKey(checkpoint, recipe, windows, device.name));
    const decisions = saved.decisions ?? (await decide(job, options.statistics));
    const progress = { ...saved, decisions };
    await writeProgress(folder, progress);
    const written = await write(job, progress);
    signal?.throwIfAborted();
    await removeProgress(folder);
    await folder.commit();
    const before = [...checkpoint.tensors.values()].reduce((sum, { shape }) => sum + elements(shape), 0);
    return {
      recipe,
      layers: written.layers,
      bytes: { before: checkpoint.bytes, after: written.bytes },
      parameters: { before, after: written.parameters },
      seconds: (performance.now() - started) / 1000,
    };
  } catch (error) {
    if (folder.resumed) await folder.keep();
    throw error;
  } finally {
    stream.dispose();
    if (!(given instanceof Device)) device.dispose();
  }
}

function recipeOf(options: CompressOptions): Recipe {
  const { recipe = 'merge' } = options;
  return typeof recipe === 'string' ? namedRecipe(recipe, options) : parseRecipe(recipe);
}

/** The named recipe with settings for the target ratio. */
function recipeWithin(options: CompressOptions, source: Source): Recipe {
  const { recipe = 'merge', targetRatio } = options;
  if (typeof recipe !== 'string') {
    const expected = 'a named recipe, whose settings it chooses';
    throw new MoeError('RECIPE_INVALID', { argument: 'targetRatio', expected, received: 'steps' });
  }
  return recipeForRatio(recipe, targetRatio as number, options, (formats) =>
    plannedLayers({ source, recipe: formats ?? { name: '', steps: [], recover: 'none', refit: [] } }),
  );
}

/** What every step decides over all layers, from light statistics of the original model. */
async function decide(job: Job, shared: string | undefined): Promise<Json[][]> {
  const { source, recipe, stream, report } = job;
  const total = source.config.layers.length;
  const collect = () => collectStatistics(stream, (done) => report('calibrate', done, total));
  const statistics = shared ? await sharedStatistics(shared, job, collect) : await collect();
  const decisions: Json[][] = [];
  let grouping: Grouping[] | undefined;
  for (const step of recipe.steps) {
    const planned = await makeStep(step).plan?.({
      ...job,
      statistics,
      grouping,
      eachLayerSoFar: (phase, visit) => eachLayerSoFar(job, decisions, phase, visit),
    });
    decisions.push(planned ? [...planned] : []);
    if (step.step === 'group') grouping = planned as Grouping[];
  }
  return decisions;
}

/** Takes the stream through the model under the steps that were decided. */
async function eachLayerSoFar(
  { source, recipe, stream, report, signal }: Job,
  decisions: readonly (readonly Json[])[],
  phase: string,
  visit: (index: number, layer: ExpertLayer) => Promise<void>,
): Promise<void> {
  const layers = moeLayers(source);
  await stream.embed({ withOriginal: recipe.recover !== 'none' });
  for (const index of source.config.layers.keys()) {
    report(phase, index, source.config.layers.length);
    await stream.enter(index);
    const position = layers.findIndex((own) => own.index === index);
    const own = layers[position];
    if (!own) {
      await stream.leave();
      continue;
    }
    const run = new LayerRun(source, recipe, own);
    const { layer } = await run.apply(
      stream,
      decisions.map((planned) => planned[position]),
      signal,
    );
    await visit(index, layer);
    await leaveWith(stream, layer, own.spec, own.names);
  }
}

/** The statistics of a file; it is written where there is none. */
async function sharedStatistics(
  path: string,
  { source, windows }: Job,
  collect: () => Promise<LayerStatistics[]>,
): Promise<LayerStatistics[]> {
  const key = statisticsKey(source.checkpoint, windows);
  const layers = moeLayers(source).map(({ index, spec }) => ({ index, experts: spec.router.experts }));
  const found = await readStatistics(path, key, layers);
  if (found) return found;
  const statistics = await collect();
  await writeStatistics(path, key, statistics);
  return statistics;
}

/** Writes all files of the new folder: what stays, then the compressed layers in order, then the config. */
async function write(
  job: Job,
  saved: SavedProgress & { readonly decisions: readonly (readonly Json[])[] },
): Promise<{ layers: LayerReport[]; bytes: number; parameters: number }> {
  const { source, recipe, stream, folder, report } = job;
  const { checkpoint, config } = source;
  const runs = moeLayers(source).map((layer) => new LayerRun(source, recipe, layer));
  const replaced = new Set(runs.flatMap((run) => run.sourceNames));
  const kept = [...checkpoint.tensors.keys()].filter((name) => !replaced.has(name));
  const writer = new ModelWriter(folder, checkpoint, kept, runs.length);
  await writer.tidy();
  await writer.copyKept((done, total) => report('copy what stays', done, total));
  const finished = [...saved.finished];
  await stream.embed({ withOriginal: recipe.recover !== 'none' });
  let position = 0;
  try {
    for (const index of config.layers.keys()) {
      report('compress', index, config.layers.length);
      await stream.enter(index);
      const run = runs[position];
      if (run?.index !== index) {
        await stream.leave();
        continue;
      }
      if (!finished[position]) {
        const decisions = saved.decisions.map((planned) => planned[position]);
        const at = position;
        const save: Parameters<LayerRun['compress']>[2] = (entries, tensors) => writer.layer(at, entries, tensors);
        finished.push(await run.compress(stream, decisions, save, job.signal));
        await writeProgress(folder, { ...saved, finished });
      }
      await run.leave(stream, writer.layerFile(position), finished[position] as FinishedLayer);
      position++;
    }
  } catch (error) {
    if (finished.length > 0) await folder.keep();
    throw error;
  }
  report('compress', config.layers.length, config.layers.length);
  const moe = {
    version: 2,
    madeBy: `node-moe ${version()}`,
    recipe: { ...recipe, calibration: job.calibration },
    weights: null,
    layers: Object.fromEntries(finished.map(({ layer, described }) => [layer, described])),
  };
  const section = compressedSection({ moe });
  const bytes = await writer.finish({ ...checkpoint.config, moe: section && compressedJson(section) });
  const layers = finished.map(({ report: layer }) => layer);
  const stays = kept.reduce((sum, name) => sum + elements(checkpoint.entry(name).shape), 0);
  return { layers, bytes, parameters: layers.reduce((sum, layer) => sum + layer.parameters, stays) };
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function isPath(value: unknown): boolean {
  return typeof value === 'string' && value !== '' && !value.includes('\0');
}

/** Refuses to replace the model that is being read. */
async function refuseSource(source: string, out: string): Promise<void> {
  const real = (path: string): Promise<string> => realpath(path).catch(() => resolve(path));
  if ((await real(out)) !== (await real(source))) return;
  throw new MoeError('RECIPE_INVALID', { argument: 'out', expected: 'another folder than the model', received: out });
}

function version(): string {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
  return String(version);
}
