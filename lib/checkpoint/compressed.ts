/**
 * The compressed form: a Hugging Face folder whose config.json has a `moe` section, which says what each compressed layer stores.
 * stored-matrix.ts says how a matrix lies in the file.
 */
import type { NativeBytes, NativeWeightForm } from '../addon.ts';
import { show } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { boolean, type Config, caps, integers, oneOf, optional, positiveInteger, section, string } from './config.ts';
import {
  type StoredForm,
  type StoredIntegers,
  type StoredMatrix,
  type StoredPart,
  storedNativeForm,
  storedParts,
} from './stored-matrix.ts';
import type { TensorSource } from './tensor-source.ts';
import type { WriterEntry } from './writer.ts';

/** The matrices of a layer's experts. */
export interface StoredExperts {
  readonly gate?: StoredMatrix;
  readonly up: StoredMatrix;
  readonly down: StoredMatrix;
  /** [groups]: whose base each slot adds its other parts to (delta form); absent: its own. Base b lies under the names of expert b. */
  readonly baseOf?: Int32Array;
}

/** A compressed layer. */
export interface CompressedLayer {
  /** Experts that are stored, under the family's names with 0 … groups - 1 as numbers. */
  readonly groups: number;
  /** [experts]: which stored expert stands for expert e; 0 … groups - 1. */
  readonly groupOf: Int32Array;
  /** 'experts': the router has a row for every original expert; 'slots': one for each stored expert, and groupOf is not used. */
  readonly router: 'experts' | 'slots';
  /** [groups] neurons of each stored expert; absent: as the config says. */
  readonly widths?: Int32Array;
  /** Absent: plain matrices, float or in the form of `weights`. */
  readonly matrices?: StoredExperts;
}

/** The `moe` section. */
export interface CompressedSection {
  readonly version: 1 | 2;
  /** For instance "node-moe 0.1.0". */
  readonly madeBy: string;
  readonly recipe: Config;
  /** Form of the quantized matrices of layers that name none of their own; null: there are no such. */
  readonly weights: StoredIntegers | null;
  /** Layer index → what is stored of it; layers that were left alone are absent. */
  readonly layers: ReadonlyMap<number, CompressedLayer>;
}

/** The part of a NativePiece that says where a matrix lies and in which form. */
export interface MatrixSource {
  readonly form: NativeWeightForm;
  readonly values: NativeBytes;
  readonly scale?: NativeBytes;
  readonly offset?: NativeBytes;
  readonly outer?: NativeBytes;
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
    if (version !== 1 && version !== 2) throw invalid('version', '1 or 2', version);
    const weights = section(moe, 'weights');
    return {
      version,
      madeBy: string(moe, 'madeBy'),
      recipe: section(moe, 'recipe') ?? {},
      weights: weights ? within('weights', () => integersOf(weights)) : null,
      layers: within('layers', () => layersOf(section(moe, 'layers') ?? {}, limits)),
    };
  });
}

/** The section as config.json's `moe`. */
export function compressedJson(compressed: CompressedSection): Record<string, unknown> {
  const layers: Record<string, unknown> = {};
  for (const [index, { groups, groupOf, router, widths, matrices }] of compressed.layers) {
    layers[index] = {
      groups,
      groupOf: [...groupOf],
      ...(router === 'slots' && { router }),
      ...(widths && { widths: [...widths] }),
      ...(matrices && { matrices: { ...matrices, ...(matrices.baseOf && { baseOf: [...matrices.baseOf] }) } }),
    };
  }
  const { version, madeBy, recipe, weights } = compressed;
  return { version, madeBy, recipe, weights, layers };
}

/**
 * A plain [rows, columns] matrix of a checkpoint, float (F32, F16, BF16) or quantized by `weights`, as the source of a NativePiece.
 *
 * Throws CHECKPOINT_TENSOR_MISSING, SHAPE_MISMATCH, DTYPE_MISMATCH, and what `Checkpoint.bytesOf` throws.
 */
export function matrixSource(
  checkpoint: TensorSource,
  name: string,
  rows: number,
  columns: number,
  weights: StoredIntegers | null | undefined,
): MatrixSource {
  if (!checkpoint.has(`${name}_scale`)) {
    const { dtype } = checkpoint.entry(name);
    const format = dtype === 'F32' ? 'f32' : dtype === 'F16' ? 'f16' : dtype === 'BF16' ? 'bf16' : undefined;
    if (!format)
      throw new MoeError('DTYPE_MISMATCH', { argument: name, expected: 'F32, F16 or BF16', received: dtype });
    return partSource(checkpoint, plainPart(name, { format }, rows, columns));
  }
  if (!weights) {
    throw new MoeError('CONFIG_INVALID', {
      argument: 'moe.weights',
      expected: `the form of ${name}, which has scales`,
      received: 'none',
    });
  }
  return partSource(checkpoint, plainPart(name, weights, rows, columns));
}

/** The one part of a plain matrix. */
export function plainPart(name: string, form: StoredForm, rows: number, columns: number): StoredPart {
  return storedParts(name, { base: form }, 0, [rows, columns])[0] as StoredPart;
}

/** A part of a stored matrix as the source of a NativePiece, without its index. Throws as {@link matrixSource}. */
export function partSource(checkpoint: TensorSource, part: StoredPart): MatrixSource {
  const bytes = (entry: WriterEntry): NativeBytes => {
    requireEntry(checkpoint, entry);
    return checkpoint.bytesOf(entry.name);
  };
  const { form, values, scale, offset, outer, index } = part;
  if (index) requireEntry(checkpoint, index);
  return {
    form: storedNativeForm(form),
    values: bytes(values),
    ...(scale && { scale: bytes(scale) }),
    ...(offset && { offset: bytes(offset) }),
    ...(outer && { outer: bytes(outer) }),
  };
}

function requireEntry(checkpoint: TensorSource, { name, dtype, shape }: WriterEntry): void {
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

function integersOf(weights: Config): StoredIntegers {
  const groupSize = weights.groupSize;
  if (groupSize !== 32 && groupSize !== 64 && groupSize !== 128 && groupSize !== 'channel') {
    throw invalid('groupSize', "32, 64, 128 or 'channel'", groupSize);
  }
  const dual = boolean(weights, 'dual', { fallback: false });
  const format = oneOf(weights, 'format', ['int8', 'int4']);
  const offset = boolean(weights, 'offset');
  if (dual && (format === 'int8' || offset || groupSize === 'channel'))
    throw invalid('dual', 'false but for int4 in groups without offsets', dual);
  return { format, groupSize, offset, scale: oneOf(weights, 'scale', ['f16', 'f32']), ...(dual && { dual }) };
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
  const router = oneOf(layer, 'router', ['experts', 'slots'], { fallback: 'experts' });
  // Where the router chooses among slots, an expert that has none is −1.
  const min = router === 'slots' ? -1 : 0;
  const groupOf = integers(layer, 'groupOf', { min, max: groups - 1, ...length });
  if (groupOf.length < groups || groupOf.length > caps.experts) {
    throw invalid('groupOf', `a list of ${groups} to ${caps.experts} integers`, groupOf);
  }
  const widths = optional(layer, 'widths', (config, key) =>
    integers(config, key, { min: 0, max: caps.width, length: groups }),
  );
  const matrices = section(layer, 'matrices');
  return {
    groups,
    groupOf: Int32Array.from(groupOf),
    router,
    ...(widths && { widths: Int32Array.from(widths) }),
    ...(matrices && { matrices: within('matrices', () => expertsOf(matrices, groups)) }),
  };
}

function expertsOf(matrices: Config, groups: number): StoredExperts {
  const matrix = (key: 'gate' | 'up' | 'down'): StoredMatrix | undefined => {
    const found = section(matrices, key);
    return found && within(key, () => matrixOf(found, groups));
  };
  const [gate, up, down] = [matrix('gate'), matrix('up'), matrix('down')];
  if (!up || !down) throw invalid(up ? 'down' : 'up', 'an object', matrices[up ? 'down' : 'up']);
  const baseOf = optional(matrices, 'baseOf', (config, key) =>
    integers(config, key, { min: 0, max: groups - 1, length: groups }),
  );
  return { ...(gate && { gate }), up, down, ...(baseOf && { baseOf: Int32Array.from(baseOf) }) };
}

function matrixOf(matrix: Config, groups: number): StoredMatrix {
  const [base, lowRank, rows, sparse] = (['base', 'lowRank', 'rows', 'sparse'] as const).map((key) =>
    section(matrix, key),
  );
  if (!base && !lowRank && !rows && !sparse) throw invalid('base', 'an object, or another part', matrix.base);
  const sizes = (config: Config, key: string): number[] =>
    integers(config, key, { min: 0, max: caps.width, length: groups });
  return {
    ...(base && { base: within('base', () => formOf(base)) }),
    ...(lowRank && {
      lowRank: within('lowRank', () => {
        const form = { format: oneOf(section(lowRank, 'form') ?? {}, 'format', ['f32', 'f16', 'bf16']) };
        return { form, rank: sizes(lowRank, 'rank'), sharedA: boolean(lowRank, 'sharedA', { fallback: false }) };
      }),
    }),
    ...(rows && {
      rows: within('rows', () => ({ form: formOf(section(rows, 'form') ?? {}), count: sizes(rows, 'count') })),
    }),
    ...(sparse && {
      sparse: within('sparse', () => {
        const m = positiveInteger(sparse, 'm', { max: 256 });
        return { form: formOf(section(sparse, 'form') ?? {}), n: positiveInteger(sparse, 'n', { max: m - 1 }), m };
      }),
    }),
  };
}

function formOf(form: Config): StoredForm {
  const format = oneOf(form, 'format', ['f32', 'f16', 'bf16', 'int8', 'int4']);
  return format === 'int8' || format === 'int4' ? integersOf(form) : { format };
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
