/** A compressed layer as the tensors and the description that a folder holds of it. */
import { addon, type NativeWeightForm } from '../addon.ts';
import type { CompressedLayer, StoredExperts } from '../checkpoint/compressed.ts';
import { tensorBytes } from '../checkpoint/safetensors.ts';
import { packPlaces, type StoredMatrix, type StoredPart, storedNativeForm } from '../checkpoint/stored-matrix.ts';
import type { StoredTensor } from '../checkpoint/tensor-source.ts';
import type { WriterEntry } from '../checkpoint/writer.ts';
import { expertParts } from '../moe/parts.ts';
import type { MoeNames, MoeSpec } from '../moe/spec.ts';
import { f32ToBf16, f32ToF16 } from '../tensor/half.ts';
import type { Codes, Expert, ExpertLayer, Matrix, PartForms } from './experts.ts';

/** What config.json says of the layer. */
export function describeLayer(layer: ExpertLayer): CompressedLayer {
  const { slots, groupOf, router, baseOf } = layer;
  const first = slots[0] as Expert;
  const matrices: StoredExperts = {
    ...(first.gate && { gate: storedMatrix(layer, 'gate') }),
    up: storedMatrix(layer, 'up'),
    down: storedMatrix(layer, 'down'),
    ...(baseOf && { baseOf }),
  };
  return {
    groups: slots.length,
    groupOf,
    router: router ? 'slots' : 'experts',
    widths: Int32Array.from(slots, ({ width }) => width),
    matrices,
  };
}

function storedMatrix({ slots, forms, baseOf }: ExpertLayer, which: 'gate' | 'up' | 'down'): StoredMatrix {
  const form: PartForms = which === 'down' ? forms.down : forms.up;
  const matrices = slots.map((expert) => expert[which] as Matrix);
  const sharedA = which === 'up' && slots.every(({ gate, up }) => gate?.factors && gate.factors.a === up.factors?.a);
  const sparse = matrices.find((matrix) => matrix.sparse)?.sparse;
  return {
    ...((baseOf || matrices.some(({ dense }) => dense)) && { base: form.dense }),
    ...(matrices.some(({ factors }) => factors) && {
      lowRank: { form: form.factors, rank: matrices.map(({ factors }) => factors?.rank ?? 0), sharedA },
    }),
    ...(matrices.some(({ kept }) => kept) && {
      rows: { form: form.kept, count: matrices.map(({ kept }) => kept?.index.length ?? 0) },
    }),
    ...(sparse && { sparse: { form: form.sparse, n: sparse.n, m: sparse.m } }),
  };
}

/** The layer's spec as a loader reads it from the new folder. */
export function specOf(original: MoeSpec, described: CompressedLayer): MoeSpec {
  const { groups, groupOf, router, widths, matrices } = described;
  return {
    ...original,
    ...(router === 'slots'
      ? { router: { ...original.router, experts: groups, topK: Math.min(original.router.topK, groups) } }
      : { merged: { groups, groupOf } }),
    ...(widths && { widths }),
    ...(matrices && { stored: matrices }),
  };
}

/**
 * The tensors of the layer's experts in the form that is stored, one after the other; `which`: of gate and up, or of down, alone. Their
 * names, dtypes and shapes are those of {@link expertEntries}.
 */
export async function* encodeExperts(
  layer: ExpertLayer,
  spec: MoeSpec,
  names: MoeNames,
  which?: 'up' | 'down',
): AsyncGenerator<StoredTensor> {
  for (const { matrix, slot, part } of expertParts(spec, spec.stored as StoredExperts, names)) {
    if (which && (matrix === 'down') !== (which === 'down')) continue;
    yield* await encodePart((layer.slots[slot] as Expert)[matrix] as Matrix, part);
  }
}

/** What {@link encodeExperts} gives, but for the data. */
export function* expertEntries(spec: MoeSpec, names: MoeNames): Generator<WriterEntry> {
  for (const { part } of expertParts(spec, spec.stored as StoredExperts, names)) {
    yield* [part.values, part.scale, part.offset, part.outer, part.index].filter(isEntry);
  }
}

/** The rows of a router that chooses among slots, as they are stored. */
export function encodeRouter(
  router: Float32Array,
  hidden: number,
  name: string,
  dtype: 'F32' | 'F16' | 'BF16',
): StoredTensor {
  return { name, dtype, shape: [router.length / hidden, hidden], data: narrow(router, dtype) };
}

/** Bytes of a described layer's tensors. */
export function layerBytes(spec: MoeSpec, names: MoeNames): number {
  let bytes = 0;
  for (const { dtype, shape } of expertEntries(spec, names)) bytes += tensorBytes(dtype, shape) ?? 0;
  return bytes;
}

async function encodePart(matrix: Matrix, part: StoredPart): Promise<StoredTensor[]> {
  const { factors, kept, sparse, codes } = matrix;
  switch (part.part) {
    case 'base':
      return encodeValues(part, matrix.dense as Float32Array, codes?.dense);
    case 'a':
      return encodeValues(part, factors?.a as Float32Array, undefined);
    case 'b':
      return encodeValues(part, factors?.b as Float32Array, undefined);
    case 'rows':
      return [
        ...(await encodeValues(part, kept?.values as Float32Array, codes?.kept)),
        { ...(part.index as WriterEntry), data: kept?.index as Int32Array },
      ];
    case 'sparse': {
      const places = packPlaces(sparse?.index as Uint8Array, part.rows, part.columns, sparse?.m as number);
      return [
        ...(await encodeValues(part, sparse?.values as Float32Array, codes?.sparse, sparse)),
        { ...(part.index as WriterEntry), data: places },
      ];
    }
  }
}

async function encodeValues(
  { form, rows, columns, values, scale, offset, outer }: StoredPart,
  floats: Float32Array,
  codes: Codes | undefined,
  sparse?: { n: number; m: number },
): Promise<StoredTensor[]> {
  if (!('groupSize' in form)) return [{ ...values, data: narrow(floats, values.dtype) }];
  const entries = [values, scale, offset, outer].filter(isEntry);
  if (codes) {
    const made = [codes.values, codes.scale, codes.offset, codes.outer].filter((bytes) => bytes !== undefined);
    return entries.map((entry, at) => ({ ...entry, data: made[at] as Uint8Array }));
  }
  const bytes = entries.map(({ dtype, shape }) => new Uint8Array(tensorBytes(dtype, shape) as number));
  const of = (entry: WriterEntry | undefined): Uint8Array | undefined => entry && bytes[entries.indexOf(entry)];
  const native = storedNativeForm(form);
  if (sparse && native.group) {
    await quantizeKept(floats, rows, columns, native, (native.group / sparse.m) * sparse.n, of(values), of(scale));
  } else {
    await addon().quantize(floats, rows, columns, native, of(values) as Uint8Array, of(scale), of(offset), of(outer));
  }
  return entries.map((entry, at) => ({ ...entry, data: bytes[at] as Uint8Array }));
}

/** Kept values in groups of `group`, each as a row of its own: a scale's group counts dense inputs, of which n in m are here. */
async function quantizeKept(
  floats: Float32Array,
  rows: number,
  columns: number,
  form: NativeWeightForm,
  group: number,
  values: Uint8Array | undefined,
  scale: Uint8Array | undefined,
): Promise<void> {
  const groups = Math.ceil(columns / group);
  const padded = new Float32Array(rows * groups * group);
  for (let row = 0; row < rows; row++)
    padded.set(floats.subarray(row * columns, (row + 1) * columns), row * groups * group);
  const nibbles = form.store === 'i4';
  const stride = nibbles ? Math.ceil(group / 2) : group;
  const codes = new Uint8Array(rows * groups * stride);
  await addon().quantize(padded, rows * groups, group, { ...form, group: 0 }, codes, scale, undefined);
  const to = values as Uint8Array;
  const width = nibbles ? Math.ceil(columns / 2) : columns;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const within = column % group;
      const from = (row * groups + Math.floor(column / group)) * stride;
      if (!nibbles) to[row * width + column] = codes[from + within] as number;
      else {
        const nibble = ((codes[from + (within >> 1)] as number) >> (4 * (within & 1))) & 15;
        const at = row * width + (column >> 1);
        to[at] = (to[at] as number) | (nibble << (4 * (column & 1)));
      }
    }
  }
}

function isEntry(entry: WriterEntry | undefined): entry is WriterEntry {
  return entry !== undefined;
}

/** Floats in a stored dtype. */
export function narrow(values: Float32Array, dtype: string): Float32Array | Uint16Array {
  return dtype === 'BF16' ? f32ToBf16(values) : dtype === 'F16' ? f32ToF16(values) : values;
}
