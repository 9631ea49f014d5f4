/** One recipe at several sizes, each measured on a held-out text: the frontier of size against quality. */
import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { requireCallback, requireObject, show } from '../arguments.ts';
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import { exists, unwritable } from '../checkpoint/files.ts';
import { readText } from '../checkpoint/text-file.ts';
import { Device } from '../device/device.ts';
import { openDevice } from '../device/open.ts';
import { MoeError } from '../errors.ts';
import { Model } from '../model/model.ts';
import { type CompressOptions, compress } from './compress.ts';
import { sizeAgainstPerplexity } from './report/charts.ts';
import { originalBytes } from './size.ts';
import { openSource } from './source.ts';
import { plannedLayers } from './steps/quantize.ts';

export const defaultRatios: readonly number[] = [0.5, 0.35, 0.25, 0.14, 0.07];

export interface SweepOptions extends Omit<CompressOptions, 'targetRatio' | 'format'> {
  /** Target ratios, each above 0 and below 1. Default {@link defaultRatios}. */
  ratios?: readonly number[] | undefined;
  /** A held-out text file, on which every model is measured. */
  text: string;
  /** At most so many windows of it; default all. */
  windows?: number | undefined;
}

/** One model of a sweep. */
export interface SweepRow {
  /** Folder; of the original, the source. */
  readonly model: string;
  /** Asked for; absent: the original. */
  readonly target?: number;
  /** Bytes of the stored experts next to their originals in 16 bits. */
  readonly ratio: number;
  /** Of the weight files on disk. */
  readonly bytes: number;
  /** Mean negative log-likelihood on the text, nats a token. */
  readonly nll: number;
}

/** What a stopped sweep left: the rows that are finished. */
interface SavedSweep {
  readonly key: string;
  readonly rows: readonly SweepRow[];
}

/**
 * Compresses a model to each target ratio in `<out>/ratio-R`, on shared calibration statistics, and measures all on one text. The rows are in
 * `<out>/sweep.json`, the plot in `<out>/frontier.svg`. A stopped sweep goes on with `resume`, from the last finished layer.
 *
 * @returns the original, then the ratios from the largest to the smallest
 * @throws MoeError RECIPE_INVALID, FILE_EXISTS, FILE_UNREADABLE, FILE_UNWRITABLE, and what `compress` throws
 */
export async function sweep(source: string, options: SweepOptions): Promise<SweepRow[]> {
  const { ratios = defaultRatios, text, windows, out, signal, device: given, ...settings } = requireObject(options);
  requireCallback(settings.onProgress, 'onProgress');
  if (!Array.isArray(ratios) || ratios.length === 0 || !ratios.every((ratio) => ratio > 0 && ratio < 1)) {
    refuse('ratios', 'a list of numbers between 0 and 1', show(ratios));
  }
  const targets = [...new Set(ratios)].sort((a, b) => b - a);
  const held = await readText(text);
  const recorded = join(out, 'sweep.json');
  const { recipe, groups, rank, rows: share, neurons, recover, weights, calibrate, calibrationTokens, seed } = settings;
  const inputs = [source, recipe, groups, rank, share, neurons, recover, weights, calibrate, calibrationTokens, seed];
  const key = createHash('sha256')
    .update(JSON.stringify([...inputs, windows, held]))
    .digest('hex');
  const rows = await begin(out, recorded, key, options);
  const device = given instanceof Device ? given : await openDevice(given);
  try {
    const measure = async (model: string): Promise<number> => {
      await using opened = await Model.open(model, { device, signal });
      const ids = opened.tokenizer.encode(held);
      return (await opened.evaluate(ids, { ...(windows !== undefined && { windows }), signal })).nll;
    };
    const { whole, before, original } = await sizesOf(source);
    const finish = async (row: SweepRow): Promise<void> => {
      rows.push(row);
      await replace(recorded, JSON.stringify({ key, rows } satisfies SavedSweep, null, 2));
    };
    if (!rows.some(({ target }) => target === undefined)) {
      await finish({ model: source, ratio: original, bytes: before, nll: await measure(source) });
    }
    for (const target of targets) {
      signal?.throwIfAborted();
      if (rows.some((row) => row.target === target)) continue;
      const model = join(out, `ratio-${target}`);
      const result = await compress(source, {
        statistics: join(out, 'statistics.safetensors'),
        ...settings,
        out: model,
        targetRatio: target,
        device,
        signal,
        force: true,
        resume: true,
      });
      const ratio = result.layers.reduce((sum, { bytes }) => sum + bytes, 0) / whole;
      await finish({ model, target, ratio, bytes: result.bytes.after, nll: await measure(model) });
    }
  } finally {
    if (!(given instanceof Device)) device.dispose();
  }
  const ordered = rows.toSorted((a, b) => (b.target ?? 1) - (a.target ?? 1));
  await replace(join(out, 'frontier.svg'), frontier(ordered));
  return ordered;
}

/** The finished rows of a sweep that goes on, or none in a new folder. */
async function begin(out: string, recorded: string, key: string, { resume, force }: SweepOptions): Promise<SweepRow[]> {
  const saved = await readFile(recorded, 'utf8').catch(() => undefined);
  if (resume && saved !== undefined) {
    const { key: other, rows } = JSON.parse(saved) as SavedSweep;
    if (other === key) return [...rows];
    refuse('resume', 'the model, recipe, calibration and text of the stopped sweep', `others (${recorded})`);
  }
  if (saved === undefined && (await exists(out))) {
    throw new MoeError('FILE_EXISTS', {
      argument: out,
      expected: 'a new folder, or that of a sweep',
      received: 'another',
    });
  }
  if (saved !== undefined && !force) {
    throw new MoeError('FILE_EXISTS', { argument: out, expected: 'a new folder', received: 'a sweep' });
  }
  await mkdir(out, { recursive: true }).catch((cause) => {
    throw unwritable(out, cause);
  });
  await replace(recorded, JSON.stringify({ key, rows: [] } satisfies SavedSweep));
  return [];
}

async function sizesOf(source: string): Promise<{ whole: number; before: number; original: number }> {
  await using checkpoint = await Checkpoint.open(source);
  const opened = openSource(checkpoint);
  const layers = plannedLayers({ source: opened, recipe: { name: '', steps: [], recover: 'none', refit: [] } });
  const whole = originalBytes(layers);
  const original = layers.some(({ forms }) => 'format' in forms.up.dense && forms.up.dense.format === 'f32') ? 2 : 1;
  return { whole, before: checkpoint.bytes, original };
}

/** The plot as a file of its own. */
function frontier(rows: readonly SweepRow[]): string {
  const points = rows.map(({ target, bytes, nll }) => ({
    label: target === undefined ? 'original' : String(target),
    x: bytes,
    y: Math.exp(nll),
  }));
  const style = 'text{font:10px sans-serif}.title{font-size:12px;font-weight:600}.axis,.grid{stroke:#999}';
  return sizeAgainstPerplexity('Size against perplexity', points).replace(
    /^<svg ([^>]*)>/,
    `<svg xmlns="http://www.w3.org/2000/svg" $1><style>${style}</style>`,
  );
}

/** Writes beside, then renames: a reader sees the old text or the new one. */
async function replace(path: string, text: string): Promise<void> {
  try {
    await writeFile(`${path}.partial`, text);
    await rename(`${path}.partial`, path);
  } catch (cause) {
    throw unwritable(path, cause);
  }
}

function refuse(argument: string, expected: string, received: string): never {
  throw new MoeError('RECIPE_INVALID', { argument, expected, received });
}
