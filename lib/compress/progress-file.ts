/** What a stopped run left: its decisions and the layers that are finished. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { OutputFolder } from '../checkpoint/folder.ts';
import { MoeError } from '../errors.ts';
import type { Recipe } from './recipe/schema.ts';
import type { LayerReport } from './report/report.ts';
import type { Json } from './steps/step.ts';

const fileName = 'progress.json';

/** A finished layer: what config.json will say of it, and the report. */
export interface FinishedLayer {
  readonly layer: number;
  readonly described: Readonly<Record<string, unknown>>;
  readonly report: LayerReport;
}

export interface SavedProgress {
  /** What the run was about: source, recipe and calibration windows. */
  readonly key: string;
  /** [step][MoE layer]; absent: nothing was decided yet. */
  readonly decisions?: readonly (readonly Json[])[];
  readonly finished: readonly FinishedLayer[];
}

/** Two runs with the same key give the same bytes. */
export function progressKey(
  checkpoint: Checkpoint,
  recipe: Recipe,
  windows: readonly Int32Array[],
  device: string,
): string {
  const hash = createHash('sha256');
  const tensors = [...checkpoint.tensors.values()].map(({ name, dtype, shape, begin }) => [name, dtype, shape, begin]);
  hash.update(JSON.stringify([checkpoint.config, tensors, recipe, device]));
  for (const window of windows) hash.update(`${window.length}:`).update(window);
  return hash.digest('hex');
}

/** The progress of a resumed folder. Throws RECIPE_INVALID where it is that of another run. */
export async function readProgress(folder: OutputFolder, key: string): Promise<SavedProgress> {
  const fresh = { key, finished: [] };
  if (!folder.resumed) return fresh;
  const text = await readFile(folder.file(fileName), 'utf8').catch(() => undefined);
  if (text === undefined) return fresh;
  const saved = JSON.parse(text) as SavedProgress;
  if (saved.key === key) return saved;
  throw new MoeError('RECIPE_INVALID', {
    argument: 'resume',
    expected: 'the model, recipe, device and calibration of the stopped run',
    received: `others (${folder.partial})`,
  });
}

export async function writeProgress(folder: OutputFolder, progress: SavedProgress): Promise<void> {
  await folder.replaceText(fileName, JSON.stringify(progress));
}

export async function removeProgress(folder: OutputFolder): Promise<void> {
  await folder.remove(fileName);
}
