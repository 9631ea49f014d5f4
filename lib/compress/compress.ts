import { readFileSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { invalid, requireCallback, requireInteger, requireObject } from '../arguments.ts';
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import { type CompressedWeights, compressedJson } from '../checkpoint/compressed.ts';
import { OutputFolder } from '../checkpoint/folder.ts';
import { Device } from '../device/device.ts';
import { openDevice } from '../device/open.ts';
import { MoeError } from '../errors.ts';
import { isInteger, nativeForm, type WeightFormat } from '../weight/format.ts';
import { observeRouters } from './calibrate.ts';
import { LayerMerge } from './layer-merge.ts';
import { LayerStream } from './layer-stream.ts';
import { ModelWriter } from './model-writer.ts';
import { checkSource, planLayers, type Source } from './plan.ts';
import { makeRecipe, type Recipe } from './recipe.ts';
import type { LayerReport } from './report.ts';
import { calibrationWindows } from './windows.ts';

export interface CompressOptions {
  /** New model folder. Work happens in `<out>.partial`; it is renamed at the end. */
  out: string;
  /** Default 'merge'. */
  recipe?: string | undefined;
  /** Groups a layer, on average: 1 … experts. */
  groups: number;
  /** Text files, or safetensors files of token ids [windows, tokens]; see {@link calibrationWindows}. */
  calibrate: readonly string[];
  /** At most so many tokens of them. */
  calibrationTokens?: number | undefined;
  /** Default 'least-squares'; 'none' is the published merge. */
  recover?: string | undefined;
  /** How the experts are stored. Default: as in the source. */
  weights?: WeightFormat | undefined;
  /** Of the draw of calibration windows. Default 0. */
  seed?: number | undefined;
  /** Replace an existing `out`. */
  force?: boolean | undefined;
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
  /** Elements of all tensors; those of a quantized matrix count once, its scales and offsets do not. */
  readonly parameters: { readonly before: number; readonly after: number };
  readonly seconds: number;
}

/** What the steps of one compression share. */
interface Job {
  readonly source: Source;
  readonly recipe: Recipe;
  readonly device: Device;
  readonly stream: LayerStream;
  readonly folder: OutputFolder;
  /** Recorded beside the recipe. */
  readonly calibration: { readonly windows: number; readonly tokens: number; readonly seed: number };
  /** Also where an abort is noticed between steps. */
  report(phase: string, done: number, total: number): void;
}

/**
 * Merges the experts of a model and writes a new model folder: MC-SMoE's merge (section 3: usage, router-logit similarity, alignment, one
 * budget of groups over all layers, frequency-weighted mean), then a least-squares refit of the merged down projections, layer by layer on what the
 * compressed layers before really give. The distillation that the paper trains afterwards is not part of it. The same inputs give the same bytes.
 *
 * @param source Hugging Face folder
 * @throws MoeError INVALID_ARGUMENT, RECIPE_INVALID, FILE_EXISTS, FILE_UNWRITABLE, and what opening a model throws; an abort rejects with the signal's reason. `out`
 * is untouched then, and nothing is left beside it.
 */
export async function compress(source: string, options: CompressOptions): Promise<CompressResult> {
  const started = performance.now();
  const { out, calibrate, signal, calibrationTokens: limit, seed = 0, device: given } = requireObject(options);
  const recipe = makeRecipe({ ...options, recipe: options.recipe ?? 'merge' });
  if (!isPath(out)) throw invalid('out', 'a path', out);
  if (!Array.isArray(calibrate) || ![...calibrate].every(isPath))
    throw invalid('calibrate', 'a list of paths', calibrate);
  if (limit !== undefined) requireInteger(limit, 'calibrationTokens');
  requireInteger(seed, 'seed', 0);
  requireCallback(options.onProgress, 'onProgress');
  await using checkpoint = await Checkpoint.open(source, { signal });
  const checked = checkSource(checkpoint, recipe);
  const { vocabulary, context } = checked.config;
  await refuseSource(source, out);
  // Discards what it holds unless it was committed.
  await using folder = await OutputFolder.create(out, { force: options.force === true });
  const tokenizer = () => checkpoint.tokenizer();
  const windows = await calibrationWindows(calibrate, { tokenizer, limit, seed, vocabulary, context, signal });
  const device = given instanceof Device ? given : await openDevice(given);
  try {
    const job: Job = {
      source: checked,
      recipe,
      device,
      stream: new LayerStream(device, checkpoint, checked.family, windows, signal),
      folder,
      calibration: { windows: windows.length, tokens: windows.reduce((sum, { length }) => sum + length, 0), seed },
      report: (phase, done, total) => {
        signal?.throwIfAborted();
        options.onProgress?.({ phase, done, total });
      },
    };
    const layers = await decide(job);
    const written = await write(job, layers);
    signal?.throwIfAborted();
    await folder.commit();
    const before = [...checkpoint.tensors.values()].reduce(
      (sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1),
      0,
    );
    return {
      recipe,
      layers,
      bytes: { before: checkpoint.bytes, after: written.bytes },
      parameters: { before, after: written.parameters },
      seconds: (performance.now() - started) / 1000,
    };
  } finally {
    if (!(given instanceof Device)) device.dispose();
  }
}

/** Observes the routers of the model and groups its experts. */
async function decide({ source: { config }, recipe, device, stream, report }: Job): Promise<LayerReport[]> {
  const total = config.layers.length;
  const observed = await observeRouters(device, stream, (done) => report('observe the routers', done, total));
  return planLayers(observed, recipe);
}

/** Writes all files of the new folder: what stays, then the merged layers in order, then the config. */
async function write(job: Job, layers: readonly LayerReport[]): Promise<{ bytes: number; parameters: number }> {
  const { source, recipe, folder, report } = job;
  const { checkpoint, family } = source;
  const merges = new Map(layers.map((layer) => [layer.layer, new LayerMerge(checkpoint, family, layer)]));
  const replaced = new Set([...merges.values()].flatMap((merge) => merge.sourceNames));
  const kept = [...checkpoint.tensors.keys()].filter((name) => !replaced.has(name));
  const matrices = [...merges.values()].flatMap((merge) => merge.matrices(recipe.weights));
  const writer = await ModelWriter.create(folder, checkpoint, kept, matrices, storedWeights(recipe.weights));
  try {
    for (const [index, name] of kept.entries()) {
      report('copy what stays', index, kept.length);
      await writer.copy(name);
    }
    await mergeLayers(job, merges, writer);
    await writer.finish({ ...checkpoint.config, moe: section(job, layers) });
  } catch (error) {
    await writer.discard();
    throw error;
  }
  return writer;
}

/** Merges, refits and stores layer after layer; the refit of each sees what the merged ones before it give. */
async function mergeLayers(job: Job, merges: ReadonlyMap<number, LayerMerge>, writer: ModelWriter): Promise<void> {
  const { source, recipe, device, stream, report } = job;
  const total = source.config.layers.length;
  const recovering = recipe.recover === 'least-squares';
  if (recovering) await stream.embed();
  for (let index = 0; index < total; index++) {
    report('merge the experts', index, total);
    const merge = merges.get(index);
    if (!merge) {
      if (recovering) await stream.advance(index);
      continue;
    }
    const slots = await merge.mean(recovering ? 'most-used' : 'first');
    if (recovering) await merge.refit(device, stream, slots, recipe.weights);
    for (const [name, values] of merge.named(slots)) await writer.matrix(name, values);
  }
  report('merge the experts', total, total);
}

/** The `moe` section: what a loader needs, and how the folder was made. */
function section({ recipe, calibration }: Job, layers: readonly LayerReport[]): Record<string, unknown> {
  return compressedJson({
    version: 1,
    madeBy: `node-moe ${version()}`,
    recipe: { ...recipe, calibration },
    weights: storedWeights(recipe.weights) ?? null,
    layers: new Map(layers.map(({ layer, groups, labels }) => [layer, { groups, groupOf: Int32Array.from(labels) }])),
  });
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

function storedWeights(format: WeightFormat | undefined): CompressedWeights | undefined {
  if (!format || !isInteger(format)) return undefined;
  const form = nativeForm(format);
  return {
    format: format.format,
    groupSize: (form.group || 'channel') as CompressedWeights['groupSize'],
    offset: form.offset === true,
    scale: form.scale === 'f16' ? 'f16' : 'f32', // makeRecipe refuses dual scales
  };
}

function version(): string {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
  return String(version);
}
