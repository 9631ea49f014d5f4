/**
 * Light calibration statistics as a safetensors file, to be shared by runs of one model on the same windows: F64 tensors
 * `layer.N.counts` and so on. Its metadata says of what they are.
 */
import { createHash } from 'node:crypto';
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { sizeOf } from '../../checkpoint/files.ts';
import { readHeader } from '../../checkpoint/safetensors.ts';
import { SafetensorsFile } from '../../checkpoint/safetensors-file.ts';
import { SafetensorsWriter } from '../../checkpoint/writer.ts';
import { MoeError } from '../../errors.ts';
import type { LayerStatistics } from './calibrate.ts';

const kind = 'node-moe calibration statistics 1';

type Sums = keyof Omit<LayerStatistics, 'layer' | 'experts'>;
/** Whether a sum is [experts, experts]; the others are [experts]. */
const square: Readonly<Record<Sums, boolean>> = {
  counts: false,
  gates: false,
  norms: false,
  gatedNorms: false,
  plainGates: false,
  plainGatedNorms: false,
  squares: false,
  gram: true,
};
const sums = Object.keys(square) as Sums[];

/** Of what statistics are: hashes of the model's config and tensor headers, and of the windows' tokens. */
export interface StatisticsKey {
  readonly model: string;
  readonly windows: string;
}

export function statisticsKey(checkpoint: Checkpoint, windows: readonly Int32Array[]): StatisticsKey {
  const tensors = [...checkpoint.tensors.values()].map(({ name, dtype, shape, begin }) => [name, dtype, shape, begin]);
  const model = createHash('sha256').update(JSON.stringify([checkpoint.config, tensors]));
  const tokens = createHash('sha256');
  for (const window of windows) tokens.update(`${window.length}:`).update(window);
  return { model: model.digest('hex'), windows: tokens.digest('hex') };
}

/**
 * The statistics of a file; undefined where there is none.
 *
 * @param layers MoE layers of the model, with their experts
 * @throws MoeError RECIPE_INVALID where they are of another model or of other windows, FILE_UNREADABLE, CHECKPOINT_MALFORMED,
 * CHECKPOINT_TENSOR_MISSING, SHAPE_MISMATCH
 */
export async function readStatistics(
  path: string,
  key: StatisticsKey,
  layers: readonly { readonly index: number; readonly experts: number }[],
): Promise<LayerStatistics[] | undefined> {
  const bytes = await sizeOf(path);
  if (bytes === undefined) return undefined;
  const { metadata } = await readHeader(path, bytes);
  if (metadata.get('kind') !== kind)
    refuse(path, 'a file of calibration statistics', metadata.get('kind') ?? 'another');
  if (metadata.get('model') !== key.model) refuse(path, 'statistics of this model', 'those of another');
  if (metadata.get('windows') !== key.windows) {
    refuse(path, 'statistics of these calibration windows', 'those of others');
  }
  using file = await SafetensorsFile.open(path);
  const found: LayerStatistics[] = [];
  for (const { index, experts } of layers) {
    const read = async (sum: Sums): Promise<[Sums, Float64Array]> => {
      const name = `layer.${index}.${sum}`;
      const shape = square[sum] ? [experts, experts] : [experts];
      const entry = file.entry(name);
      if (entry.dtype !== 'F64' || entry.shape.join() !== shape.join()) {
        throw new MoeError('SHAPE_MISMATCH', {
          argument: `${path}/${name}`,
          expected: `F64 [${shape.join(', ')}]`,
          received: `${entry.dtype} [${entry.shape.join(', ')}]`,
        });
      }
      return [sum, (await file.read(name)) as Float64Array];
    };
    const own = Object.fromEntries(await Promise.all(sums.map(read))) as Record<Sums, Float64Array>;
    found.push({ layer: index, experts, ...own });
  }
  return found;
}

/** Rejects with FILE_UNWRITABLE; there is then no file, or the one that was there. */
export async function writeStatistics(
  path: string,
  { model, windows }: StatisticsKey,
  layers: readonly LayerStatistics[],
): Promise<void> {
  const tensors = layers.flatMap((layer) =>
    sums.map((sum) => ({
      name: `layer.${layer.layer}.${sum}`,
      dtype: 'F64' as const,
      shape: square[sum] ? [layer.experts, layer.experts] : [layer.experts],
      data: layer[sum],
    })),
  );
  const writer = await SafetensorsWriter.create(path, tensors, { kind, model, windows });
  try {
    for (const { name, data } of tensors) await writer.write(name, data);
    await writer.finish();
  } finally {
    await writer.discard();
  }
}

function refuse(path: string, expected: string, received: string): never {
  throw new MoeError('RECIPE_INVALID', { argument: path, expected, received });
}
