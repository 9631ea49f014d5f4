import {
  denseMatrices,
  type Expert,
  type ExpertLayer,
  endJob,
  type Factors,
  type Matrix,
  readMatrix,
  sumOf,
} from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { ridgeSolve } from '../recover/ridge.ts';
import { jointRank } from './gated.ts';
import { lowRank, whiteningOf } from './low-rank.ts';

/**
 * The delta form (D²-MoE, section 3): one base for all experts of a layer, their mean weighted by use, and each expert's difference from it
 * as low rank, nearest on what the expert reads. gate and up share the A of their factors.
 */
export async function deltaLayer(layer: ExpertLayer, context: LayerContext, rank: number): Promise<ExpertLayer> {
  const { hidden } = layer;
  const { width } = context.spec;
  const gated = layer.slots.every(({ gate }) => gate !== undefined);
  /** Gate and up of a slot as one matrix. */
  const above = (slot: number): Float32Array => {
    const { gate, up } = denseMatrices(layer, slot);
    return gate ? stack(gate, up) : up;
  };
  const inputs = context.inputMoments(layer, 2);
  const rows: number[] = [];
  for (const slot of layer.slots.keys()) rows.push((await inputs.of(slot)).rows);
  const shares = sharesOf(rows);
  const base = await weightedMean(eachOf(layer, above), shares);
  const tall = (gated ? 2 : 1) * width;
  const upRank = Math.min(gated ? jointRank(rank, width, hidden) : rank, hidden, tall);
  const ups: Pick<Expert, 'gate' | 'up'>[] = [];
  for (const slot of layer.slots.keys()) {
    context.signal?.throwIfAborted();
    const whiten = await whiteningOf((await inputs.of(slot)).gram, hidden);
    const own = await lowRank(difference(above(slot), base), { rows: tall, columns: hidden }, upRank, { whiten });
    ups.push(split(own, base, width, hidden, gated, slot === 0));
  }
  // Down is fitted to what gate and up then give, which only dense sums can say while down has no base yet.
  const whole = ups.map(({ gate, up }, slot): Expert => {
    const sum = (matrix: Matrix, at: number): Matrix =>
      readMatrix({ rows: width, columns: hidden }, () =>
        sumOf(matrix, base.subarray(at * width * hidden, (at + 1) * width * hidden)),
      );
    return {
      ...(layer.slots[slot] as Expert),
      ...(gate && { gate: sum(gate, 0) }),
      up: sum(up, gated ? 1 : 0),
    };
  });
  const moments = await context.hiddenMoments({ ...layer, slots: whole });
  const shape = { rows: hidden, columns: width };
  const targets: Matrix[] = [];
  for (const slot of layer.slots.keys()) {
    const down = readMatrix(shape, () => denseMatrices(layer, slot).down);
    const fitted =
      context.recover && (await ridgeSolve(await moments.of(slot), down.dense as Float32Array, width, hidden));
    targets.push(fitted ? { ...shape, dense: fitted } : down);
  }
  const downBase = await weightedMean(
    eachOf(layer, (slot) => targets[slot]?.dense as Float32Array),
    shares,
  );
  const slots: Expert[] = [];
  for (const [slot, target] of targets.entries()) {
    const whiten = await whiteningOf((await moments.of(slot)).gram, width);
    const delta = difference(target.dense as Float32Array, downBase);
    const own = await lowRank(delta, shape, Math.min(rank, hidden, width), { whiten });
    const down = { ...shape, ...(slot === 0 && { dense: downBase }), factors: own };
    slots.push({ hidden, width, ...(ups[slot] as Pick<Expert, 'gate' | 'up'>), down });
  }
  return { ...layer, slots, baseOf: new Int32Array(slots.length) };
}

/** A matrix of each slot, one after the other. */
async function* eachOf({ slots }: ExpertLayer, matrix: (slot: number) => Float32Array): AsyncGenerator<Float32Array> {
  for (const slot of slots.keys()) {
    yield matrix(slot);
    await endJob();
  }
}

/** By rows; equal where nothing was seen. */
function sharesOf(rows: readonly number[]): number[] {
  const total = rows.reduce((sum, count) => sum + count, 0);
  return Array.from(rows, (count) => (total > 0 ? count / total : 1 / rows.length));
}

/** Σ share·matrix, matrices of one shape, one in memory at a time where they are made as they are asked for. */
export async function weightedMean(
  matrices: Iterable<Float32Array> | AsyncIterable<Float32Array>,
  shares: ArrayLike<number>,
): Promise<Float32Array> {
  let sum = new Float64Array();
  let index = 0;
  for await (const matrix of matrices) {
    if (index === 0) sum = new Float64Array(matrix.length);
    const share = shares[index++] as number;
    for (let at = 0; at < sum.length; at++) sum[at] = (sum[at] as number) + share * (matrix[at] as number);
  }
  return Float32Array.from(sum);
}

/** a − b. */
export function difference(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((value, at) => value - (b[at] as number));
}

function stack(gate: Float32Array, up: Float32Array): Float32Array {
  const both = new Float32Array(gate.length + up.length);
  both.set(gate);
  both.set(up, gate.length);
  return both;
}

/** Factors of gate and up together as those of each, beside the base where the slot holds it. */
function split(
  { rank, a, b }: Factors,
  base: Float32Array,
  width: number,
  hidden: number,
  gated: boolean,
  holds: boolean,
): Pick<Expert, 'gate' | 'up'> {
  const part = (at: number): Matrix => ({
    rows: width,
    columns: hidden,
    ...(holds && { dense: base.slice(at * width * hidden, (at + 1) * width * hidden) }),
    factors: { rank, a, b: b.slice(at * width * rank, (at + 1) * width * rank) },
  });
  return gated ? { gate: part(0), up: part(1) } : { up: part(0) };
}
