/** The expert bank of a layer from the tensors of a checkpoint. */
import type { NativePiece } from '../addon.ts';
import { partSource, type StoredExperts } from '../checkpoint/compressed.ts';
import { type StoredForm, unpackPlaces } from '../checkpoint/stored-matrix.ts';
import { MoeError } from '../errors.ts';
import { type ExpertBank, expertBank } from '../weight/bank.ts';
import { type GroupSize, isInteger, nativeForm, type WeightFormat } from '../weight/format.ts';
import type { WeightSpec } from '../weight/spec.ts';
import type { Weight } from '../weight/weight.ts';
import type { WeightLoader } from './loader.ts';
import { type ExpertPart, expertParts } from './parts.ts';
import { type MoeNames, type MoeSpec, slotsOf, widthOf } from './spec.ts';

/**
 * gate|up and down of every slot, streamed from the mapped file. A merged layer has a slot for each group and `groupOf`.
 * `format` absent: as stored; a bank of other parts than plain matrices is always as stored. The loader owns the weights.
 */
export async function loadBank(
  loader: WeightLoader,
  spec: MoeSpec,
  names: MoeNames,
  format: WeightFormat | undefined,
): Promise<ExpertBank> {
  const { kind, merged, stored } = spec;
  if (stored) return loadStored(loader, spec, stored, names, format);
  const slots = Array.from({ length: slotsOf(spec) }, (_, slot) => names.expert(slot));
  const { up, down } = await loader.mlps(slots, spec.hidden, spec.widths ?? spec.width, format);
  return expertBank({ kind, up, down, groupOf: merged?.groupOf });
}

async function loadStored(
  loader: WeightLoader,
  spec: MoeSpec,
  stored: StoredExperts,
  names: MoeNames,
  format: WeightFormat | undefined,
): Promise<ExpertBank> {
  const up = await loadProjection(loader, spec, stored, names, 'up', format);
  const down = await loadProjection(loader, spec, stored, names, 'down', format);
  return expertBank({ kind: spec.kind, up, down, groupOf: spec.merged?.groupOf });
}

/** gate|up ('up') or down of all slots. The loader owns the weight. */
export async function loadProjection(
  loader: WeightLoader,
  spec: MoeSpec,
  stored: StoredExperts,
  names: MoeNames,
  which: 'up' | 'down',
  format?: WeightFormat,
): Promise<Weight> {
  const pieces: NativePiece[] = [];
  const tensors: string[] = [];
  for (const part of expertParts(spec, stored, names)) {
    if ((part.matrix === 'down') !== (which === 'down')) continue;
    pieces.push(...(await piecesOf(loader, spec, stored, part)));
    tensors.push(part.part.values.name);
  }
  return loader.bank(bankSpecs(spec, stored, format)[which], pieces, tensors);
}

/** The two banks of a layer. `format` overrides that of the bases where they are plain matrices. Throws CONFIG_INVALID. */
export function bankSpecs(
  spec: MoeSpec,
  { gate, up, down, baseOf }: StoredExperts,
  format?: WeightFormat,
): { up: WeightSpec; down: WeightSpec } {
  const slots = slotsOf(spec);
  const widths = Array.from({ length: slots }, (_, slot) => widthOf(spec, slot));
  const widest = Math.max(...widths, 1);
  const ragged = widths.some((width) => width !== widest);
  const plain = ![gate, up, down].some((matrix) => matrix && (matrix.lowRank || matrix.rows || matrix.sparse));
  const base = (form: StoredForm | undefined) => form && { format: (plain && format) || weightFormat(form) };
  const shared = baseOf && { baseOf: [...baseOf] };
  const gates = gate ? 2 : 1;
  if (gate && JSON.stringify(formsOf(gate)) !== JSON.stringify(formsOf(up))) {
    throw new MoeError('CONFIG_INVALID', {
      argument: 'moe.layers.matrices.up',
      expected: 'the parts and forms of the gate',
      received: 'others',
    });
  }
  const sums = (a: readonly number[] | undefined, b: readonly number[] | undefined): number[] =>
    widths.map((_, slot) => (a?.[slot] ?? 0) + (b?.[slot] ?? 0));
  const ranks = up.lowRank?.sharedA ? gate?.lowRank?.rank : sums(gate?.lowRank?.rank, up.lowRank?.rank);
  return {
    up: {
      in: spec.hidden,
      out: gates * widest,
      slots,
      gated: gate !== undefined,
      ...(ragged && { outOf: widths.map((width) => gates * width) }),
      ...base(up.base),
      ...(up.base && shared),
      ...(up.lowRank && { lowRank: { rank: [...(ranks ?? [])], format: { ...up.lowRank.form } } }),
      ...(up.rows && { rows: { count: sums(gate?.rows?.count, up.rows.count), format: weightFormat(up.rows.form) } }),
      ...(up.sparse && { sparse: { n: up.sparse.n, m: up.sparse.m, format: weightFormat(up.sparse.form) } }),
    },
    down: {
      in: widest,
      out: spec.hidden,
      slots,
      ...(ragged && { inOf: widths }),
      ...base(down.base),
      ...(down.base && shared),
      ...(down.lowRank && { lowRank: { rank: [...down.lowRank.rank], format: { ...down.lowRank.form } } }),
      ...(down.rows && { rows: { count: [...down.rows.count], format: weightFormat(down.rows.form) } }),
      ...(down.sparse && { sparse: { n: down.sparse.n, m: down.sparse.m, format: weightFormat(down.sparse.form) } }),
    },
  };
}

function formsOf({ base, lowRank, rows, sparse }: NonNullable<StoredExperts['gate']>): unknown {
  return [base, lowRank?.form, rows?.form, sparse];
}

function weightFormat(form: StoredForm): WeightFormat {
  return { ...form };
}

/** The pieces of one part; up's rows lie behind the gate's. */
async function piecesOf(
  loader: WeightLoader,
  spec: MoeSpec,
  { gate, up, down }: StoredExperts,
  { matrix, slot, part }: ExpertPart,
): Promise<NativePiece[]> {
  const { source: tensors } = loader;
  const { rows, columns } = part;
  const source = partSource(tensors, part);
  const behind = matrix === 'up' && gate !== undefined;
  const row = behind ? widthOf(spec, slot) : 0;
  const form = { gate, up, down }[matrix];
  switch (part.part) {
    case 'base':
      return [{ part: 'base', slot, row, rows, ...source }];
    case 'a':
      return [{ part: 'factorIn', slot, row: behind ? (gate?.lowRank?.rank[slot] ?? 0) : 0, rows, ...source }];
    case 'b': {
      const rank = gate && matrix !== 'down' && !up.lowRank?.sharedA ? (gate.lowRank?.rank[slot] ?? 0) : undefined;
      if (rank === undefined) return [{ part: 'factorOut', slot, row, rows, ...source }];
      // Factors of their own are one pair of the bank: B is block-diagonal.
      const total = rank + (up.lowRank?.rank[slot] ?? 0);
      const own = await tensors.readF32(part.values.name);
      const values = new Float32Array(rows * total);
      for (let i = 0; i < rows; i++) {
        values.set(own.subarray(i * columns, (i + 1) * columns), i * total + (behind ? rank : 0));
      }
      return [{ part: 'factorOut', slot, row, rows, form: { store: 'f32' }, values }];
    }
    case 'rows': {
      const index = await tensors.read(part.index?.name as string);
      const shifted = Int32Array.from(index as Int32Array, (at) => at + row);
      const before = behind ? (gate?.rows?.count[slot] ?? 0) : 0;
      return [{ part: 'rows', slot, row: before, rows, ...source, index: shifted }];
    }
    case 'sparse': {
      const packed = (await tensors.read(part.index?.name as string)) as Uint8Array;
      const index = unpackPlaces(packed, rows, columns, form?.sparse?.m ?? 0);
      return [{ part: 'sparse', slot, row, rows, ...source, index }];
    }
  }
}

/** The stored form of a weight format with its defaults filled in. */
export function storedForm(format: WeightFormat): StoredForm {
  if (!isInteger(format)) return { format: format.format };
  const { group, offset = false, scale, outer } = nativeForm(format);
  return {
    format: format.format,
    groupSize: (group || 'channel') as GroupSize,
    offset,
    scale: (outer ?? scale) as 'f16' | 'f32',
    ...(outer && { dual: true }),
  };
}
