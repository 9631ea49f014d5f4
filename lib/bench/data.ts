/** Weights and inputs of benchmarks. Speed does not depend on the values: a few random ones, over and over. */
import type { NativePiece } from '../addon.ts';
import type { Device } from '../device/device.ts';
import { Tensor } from '../tensor/tensor.ts';
import { type ActivationMode, isInteger, type WeightFormat } from '../weight/format.ts';
import { baseSlots, type WeightSpec } from '../weight/spec.ts';
import { Weight } from '../weight/weight.ts';
import type { Operations } from './limits.ts';

export interface NamedFormat {
  readonly text: string;
  readonly format: WeightFormat;
}

/** Bytes that are gone through before anything comes again: several times what last-level caches hold. */
export const coldBytes = 256e6;

/** A set needs a program of its own. */
const mostSets = 512;

/** Sets of `bytes` each that it takes so that none is still in a cache when it comes again. */
export function setsFor(bytes: number, warm: boolean): number {
  return warm ? 1 : Math.min(mostSets, Math.ceil(coldBytes / bytes) + 1);
}

export function randomFloats(count: number): Float32Array {
  const data = new Float32Array(count);
  const some = data.subarray(0, Math.min(count, 65_521));
  for (let i = 0; i < some.length; i++) some[i] = Math.random() - 0.5;
  for (let at = some.length; at < count; at += some.length) data.set(some.subarray(0, count - at), at);
  return data;
}

export function randomTensor(device: Device, shape: readonly number[]): Promise<Tensor<'f32'>> {
  return Tensor.from(device, randomFloats(shape.reduce((a, b) => a * b, 1)), { dtype: 'f32', shape });
}

/** A bank with every part that the spec names; ranks and counts are those of all slots. */
export async function randomWeight(device: Device, spec: WeightSpec): Promise<Weight> {
  const { in: width, out, slots = 1, lowRank, rows, sparse } = spec;
  const rank = (lowRank?.rank ?? 0) as number;
  const count = (rows?.count ?? 0) as number;
  const kept = sparse ? Math.ceil(width / sparse.m) * sparse.n : 0;
  const block = Math.max(1, Math.min(out, Math.floor(2 ** 22 / width)));
  const values = randomFloats(Math.max(block * width, rank * width, out * rank, count * width, out * kept));
  const form = { store: 'f32' } as const;
  const rowIndex = Int32Array.from({ length: count }, (_, i) => Math.floor((i * out) / count));
  const place = new Uint8Array(out * kept);
  if (sparse) for (let i = 0; i < place.length; i++) place[i] = placeOf(i, sparse.n, sparse.m);
  const pieces: NativePiece[] = [];
  if (spec.format) {
    for (let slot = 0; slot < baseSlots(spec); slot++) {
      for (let row = 0; row < out; row += block) {
        const some = Math.min(block, out - row);
        pieces.push({ part: 'base', slot, row, rows: some, form, values: values.subarray(0, some * width) });
      }
    }
  }
  for (let slot = 0; slot < slots; slot++) {
    const whole = { slot, row: 0, form };
    if (rank > 0) {
      pieces.push({ ...whole, part: 'factorIn', rows: rank, values: values.subarray(0, rank * width) });
      pieces.push({ ...whole, part: 'factorOut', rows: out, values: values.subarray(0, out * rank) });
    }
    if (count > 0) {
      const data = { rows: count, values: values.subarray(0, count * width), index: rowIndex };
      pieces.push({ ...whole, part: 'rows', ...data });
    }
    if (sparse) {
      const data = { rows: out, values: values.subarray(0, out * kept), index: place };
      pieces.push({ ...whole, part: 'sparse', ...data });
    }
  }
  return Weight.load(device, spec, pieces);
}

/** Copies of a bank that together hold at least `bytes`. */
export async function coldCopies(device: Device, spec: WeightSpec, bytes: number): Promise<Weight[]> {
  const copies = [await randomWeight(device, spec)];
  const count = Math.min(mostSets, Math.ceil(bytes / (copies[0] as Weight).bytes));
  while (copies.length < count) copies.push(await randomWeight(device, spec));
  return copies;
}

/** n ascending places among m that change from block to block. */
function placeOf(index: number, n: number, m: number): number {
  return (index % n) + (Math.floor(index / n) % (m - n + 1));
}

/** Operations of `rows` rows through one slot, by the units that may do them; ranks and counts are those of all slots. */
export function operationsOf(spec: WeightSpec, rows: number, mode: ActivationMode | undefined): Operations {
  const { in: width, out, format, lowRank, rows: kept, sparse } = spec;
  const products = { f32: 0, bf16: 0, int8: 0 };
  const add = (of: WeightFormat, count: number): void => {
    products[unitsOf(of, mode)] += 2 * rows * count;
  };
  if (format) add(format, width * out);
  if (lowRank) add(lowRank.format ?? { format: 'bf16' }, (lowRank.rank as number) * (width + out));
  if (kept) add(kept.format, (kept.count as number) * width);
  if (sparse) add(sparse.format, Math.ceil(width / sparse.m) * sparse.n * out);
  return products;
}

function unitsOf(format: WeightFormat, mode: ActivationMode | undefined): keyof Operations {
  if (isInteger(format) && (mode ?? format.activation) !== 'exact') return 'int8';
  return format.format === 'f32' ? 'f32' : 'bf16';
}

export function disposeAll(held: { dispose(): void }[]): void {
  for (const one of held.splice(0).reverse()) one.dispose();
}
