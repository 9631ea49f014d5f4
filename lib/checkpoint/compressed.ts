/**
 * The plain compressed form: a Hugging Face folder whose config.json has a `moe` section, whose merged layers hold fewer experts,
 * and whose quantized matrices are three tensors:
 *
 *     NAME         I8 [out, in], or U8 [out, ceil(in / 2)]: two's complement nibbles, the even column in the low half
 *     NAME_scale   F16 or F32 [out, groups]; groups = ceil(in / groupSize), 1 for 'channel'
 *     NAME_offset  as NAME_scale, where the form has offsets
 *
 * NAME ends in `.weight` in most families, so the others end in `.weight_scale` and `.weight_offset`.
 */
import type { NativeBytes, NativeWeightForm } from '../addon.ts';
import { show } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import type { Checkpoint } from './checkpoint.ts';
import { boolean, type Config, caps, integers, oneOf, positiveInteger, section, string } from './config.ts';
import type { WriterEntry } from './writer.ts';

/** Form of the quantized matrices of a folder. */
export interface CompressedWeights {
  readonly format: 'int8' | 'int4';
  /** Elements of a row that share a scale. */
  readonly groupSize: 32 | 64 | 128 | 'channel';
  readonly offset: boolean;
  readonly scale: 'f16' | 'f32';
}

/** A merged layer. */
export interface CompressedLayer {
  /** Experts that are stored, under the family's names with 0 … groups - 1 as numbers. */
  readonly groups: number;
  /** [experts]: which stored expert stands for expert e; 0 … groups - 1. */
  readonly groupOf: Int32Array;
}

/** The `moe` section. */
export interface CompressedSection {
  readonly version: 1;
  /** For instance "node-moe 0.1.0". */
  readonly madeBy: string;
  readonly recipe: Config;
  /** null: nothing is quantized. */
  readonly weights: CompressedWeights | null;
  /** Layer index → how it was merged; layers that were not are absent. */
  readonly layers: ReadonlyMap<number, CompressedLayer>;
}

/** The part of a NativePiece that says where a matrix lies and in which form. */
export interface MatrixSource {
  readonly form: NativeWeightForm;
  readonly values: NativeBytes;
  readonly scale?: NativeBytes;
  readonly offset?: NativeBytes;
}

/**
 * The `moe` section of a config.json, checked; undefined where there is none. `limits`: the model's layers and its routed experts a
 * layer before merging, where known.
 *
 * Throws CONFIG_INVALID.
 */
export function compressedSection(
  config: Config,
  limits: { layers?: number; experts?: number } = {},
): CompressedSection | undefined {
  const moe = section(config, 'moe');
  if (!moe) return undefined;
  return within('moe', () => {
    const version = positiveInteger(moe, 'version');
    if (version !== 1) throw invalid('version', '1', version);
    const weights = section(moe, 'weights');
    return {
      version,
      madeBy: string(moe, 'madeBy'),
      recipe: section(moe, 'recipe') ?? {},
      weights: weights ? within('weights', () => weightsOf(weights)) : null,
      layers: within('layers', () => layersOf(section(moe, 'layers') ?? {}, limits)),
    };
  });
}

/** The section as config.json's `moe`. */
export function compressedJson(compressed: CompressedSection): Record<string, unknown> {
  const layers: Record<string, unknown> = {};
  for (const [index, { groups, groupOf }] of compressed.layers) layers[index] = { groups, groupOf: [...groupOf] };
  const { version, madeBy, recipe, weights } = compressed;
  return { version, madeBy, recipe, weights, layers };
}

/** Names of the three tensors of a quantized matrix. */
export function compressedNames(name: string): { values: string; scale: string; offset: string } {
  return { values: name, scale: `${name}_scale`, offset: `${name}_offset` };
}

/** The tensors that a [rows, columns] matrix is stored as, in the order values, scale, offset. */
export function compressedEntries(
  name: string,
  rows: number,
  columns: number,
  weights: CompressedWeights,
): WriterEntry[] {
  const names = compressedNames(name);
  const groups = weights.groupSize === 'channel' ? 1 : Math.ceil(columns / weights.groupSize);
  const side = { dtype: weights.scale === 'f16' ? 'F16' : 'F32', shape: [rows, groups] } as const;
  const entries: WriterEntry[] = [
    weights.format === 'int8'
      ? { name: names.values, dtype: 'I8', shape: [rows, columns] }
      : { name: names.values, dtype: 'U8', shape: [rows, Math.ceil(columns / 2)] },
    { name: names.scale, ...side },
  ];
  if (weights.offset) entries.push({ name: names.offset, ...side });
  return entries;
}

/** The form as the native side names it. */
export function compressedForm(weights: CompressedWeights): NativeWeightForm {
  const { format, groupSize, offset, scale } = weights;
  return { store: format === 'int4' ? 'i4' : 'i8', scale, offset, group: groupSize === 'channel' ? 0 : groupSize };
}

/**
 * A [rows, columns] matrix of a checkpoint, float (F32, F16, BF16) or quantized by `weights`, as the source of a NativePiece.
 *
 * Throws CHECKPOINT_TENSOR_MISSING, SHAPE_MISMATCH, DTYPE_MISMATCH, and what `Checkpoint.bytesOf` throws.
 */
export function matrixSource(
  checkpoint: Checkpoint,
  name: string,
  rows: number,
  columns: number,
  weights: CompressedWeights | null | undefined,
): MatrixSource {
  const names = compressedNames(name);
  if (!checkpoint.has(names.scale)) {
    const { dtype } = checkpoint.entry(name);
    const store = dtype === 'F32' ? 'f32' : dtype === 'F16' ? 'f16' : dtype === 'BF16' ? 'bf16' : undefined;
    if (!store) throw new MoeError('DTYPE_MISMATCH', { argument: name, expected: 'F32, F16 or BF16', received: dtype });
    requireEntry(checkpoint, { name, dtype, shape: [rows, columns] });
    return { form: { store }, values: checkpoint.bytesOf(name) };
  }
  if (!weights) {
    throw new MoeError('CONFIG_INVALID', {
      argument: 'moe.weights',
      expected: `the form of ${name}, which has scales`,
      received: 'none',
    });
  }
  for (const entry of compressedEntries(name, rows, columns, weights)) requireEntry(checkpoint, entry);
  const source = {
    form: compressedForm(weights),
    values: checkpoint.bytesOf(name),
    scale: checkpoint.bytesOf(names.scale),
  };
  return weights.offset ? { ...source, offset: checkpoint.bytesOf(names.offset) } : source;
}

function requireEntry(checkpoint: Checkpoint, { name, dtype, shape }: WriterEntry): void {
  const found = checkpoint.entry(name);
  if (found.dtype !== dtype)
    throw new MoeError('DTYPE_MISMATCH', { argument: name, expected: dtype, received: found.dtype });
  if (found.shape.join() !== shape.join()) {
    throw new MoeError('SHAPE_MISMATCH', {
      argument: name,
      expected: `[${shape.join(', ')}]`,
      received: `[${found.shape.slice(0, 8).join(', ')}]`,
    });
  }
}

function weightsOf(weights: Config): CompressedWeights {
  const groupSize = weights.groupSize;
  if (groupSize !== 32 && groupSize !== 64 && groupSize !== 128 && groupSize !== 'channel') {
    throw invalid('groupSize', "32, 64, 128 or 'channel'", groupSize);
  }
  return {
    format: oneOf(weights, 'format', ['int8', 'int4']),
    groupSize,
    offset: boolean(weights, 'offset'),
    scale: oneOf(weights, 'scale', ['f16', 'f32']),
  };
}

function layersOf(layers: Config, limits: { layers?: number; experts?: number }): Map<number, CompressedLayer> {
  const result = new Map<number, CompressedLayer>();
  for (const [key, value] of Object.entries(layers)) {
    const index = Number(key);
    const last = (limits.layers ?? caps.layers) - 1;
    // '01' and ' 1' would name layer 1 a second time.
    if (!Number.isSafeInteger(index) || String(index) !== key || index < 0 || index > last) {
      throw invalid(key, `a layer index from 0 to ${last}`, key);
    }
    const layer = section({ [key]: value }, key);
    if (!layer) throw invalid(key, 'an object', value);
    result.set(
      index,
      within(key, () => layerOf(layer, limits.experts)),
    );
  }
  return result;
}

function layerOf(layer: Config, experts: number | undefined): CompressedLayer {
  const groups = positiveInteger(layer, 'groups', { max: experts ?? caps.experts });
  const length = experts === undefined ? {} : { length: experts };
  const groupOf = integers(layer, 'groupOf', { min: 0, max: groups - 1, ...length });
  if (groupOf.length < groups || groupOf.length > caps.experts) {
    throw invalid('groupOf', `a list of ${groups} to ${caps.experts} integers`, groupOf);
  }
  return { groups, groupOf: Int32Array.from(groupOf) };
}

function invalid(argument: string, expected: string, received: unknown): MoeError {
  return new MoeError('CONFIG_INVALID', { argument, expected, received: show(received) });
}

/** Puts the section's name before the key of an error from inside. */
function within<T>(name: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (!(error instanceof MoeError)) throw error;
    const { code, argument, expected, received } = error;
    throw new MoeError(code, {
      argument: `${name}.${argument}`,
      ...(expected === undefined ? {} : { expected }),
      ...(received === undefined ? {} : { received }),
    });
  }
}
