/**
 * One scale for each input of all gates and ups of a layer. They read what one norm gives, and a router and a shared expert read it too: its
 * weights are divided by the scales, the columns of all that reads it are multiplied, and every product stays what it was. Scales are powers
 * of two, so that this holds to the last bit in any float format, and tokens go to the experts that they went to.
 */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { StoredTensor } from '../checkpoint/tensor-source.ts';
import type { WriterEntry } from '../checkpoint/writer.ts';
import type { MoeNames } from '../moe/spec.ts';
import { narrow } from './encode.ts';
import { type Expert, type ExpertLayer, type Matrix, readMatrix } from './experts.ts';
import { divideRows, scaleColumns } from './quantize/awq.ts';
import type { Recipe } from './recipe/schema.ts';

/** The nearest powers of two, in the logarithm. */
export function powersOfTwo(scales: Float32Array): Float32Array {
  return scales.map((scale) => 2 ** Math.round(Math.log2(scale)));
}

/** Whether a recipe may scale inputs, so that the norm and what reads it are written layer by layer. */
export function scalesInputs({ steps }: Recipe): boolean {
  return steps.some((step) => step.step === 'quantize' && step.method === 'awq' && step.scales.includes('gate-up'));
}

/** The layer with gate and up for scaled inputs; undefined where one of them is no plain dense matrix. */
export function withInputScales(layer: ExpertLayer, scales: Float32Array): ExpertLayer | undefined {
  const { baseOf, inputScales } = layer;
  const plain = layer.slots.every(({ gate, up }) => (!gate || isPlain(gate)) && isPlain(up));
  if (baseOf || inputScales || !plain) return undefined;
  const scaled = (matrix: Matrix): Matrix =>
    readMatrix({ rows: matrix.rows, columns: matrix.columns }, () =>
      scaleColumns(matrix.dense as Float32Array, scales),
    );
  const slots = layer.slots.map(
    (slot): Expert => ({ ...slot, ...(slot.gate && { gate: scaled(slot.gate) }), up: scaled(slot.up) }),
  );
  return { ...layer, slots, inputScales: scales };
}

/** Without parts beside the dense one, which is not read for that. */
function isPlain({ factors, kept, sparse }: Matrix): boolean {
  return !factors && !kept && !sparse;
}

/** A tensor beside experts and router that is written with them, and what scales make of it. */
export interface ScaledTensor {
  readonly name: string;
  readonly under: (values: Float32Array, scales: Float32Array) => Float32Array;
}

/**
 * The norm, what else reads what it gives, and what else belongs to the shared expert, so that a layer's file has that whole.
 *
 * @param norm of the block, without its ending '.weight'
 */
export function besideExperts({ shared, sharedGate }: MoeNames, norm: string, checkpoint: Checkpoint): ScaledTensor[] {
  return [
    { name: norm, under: divideRows },
    { name: shared?.gate, under: scaleColumns },
    { name: shared?.up, under: scaleColumns },
    { name: sharedGate, under: scaleColumns },
    { name: shared?.down, under: (values: Float32Array) => values },
  ]
    .map(({ name, under }) => ({ name: `${name}.weight`, under }))
    .filter(({ name }) => checkpoint.has(name));
}

/** The tensors as they are written, but for their data. */
export function besideEntries(tensors: readonly ScaledTensor[], checkpoint: Checkpoint): WriterEntry[] {
  return tensors.map(({ name }) => {
    const { dtype, shape } = checkpoint.entry(name);
    return { name, dtype, shape };
  });
}

/** The tensors under the scales, one after the other. */
export async function* scaledTensors(
  tensors: readonly ScaledTensor[],
  checkpoint: Checkpoint,
  scales: Float32Array | undefined,
): AsyncGenerator<StoredTensor> {
  for (const [at, entry] of besideEntries(tensors, checkpoint).entries()) {
    const values = await checkpoint.readF32(entry.name);
    const own = scales ? tensors[at]?.under(values, scales) : undefined;
    yield { ...entry, data: narrow(own ?? values, entry.dtype) };
  }
}
