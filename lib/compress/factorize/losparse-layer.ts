/** LoSparse on the experts of a layer: how they fall apart, which rows a layer's own output wants, and what is stored. */
import type { ExpertMatrices } from '../expert.ts';
import { denseMatrices, type Expert, type ExpertLayer, type Factors, type Matrix } from '../experts.ts';
import { type MatrixName, matrixNames } from '../gradients/experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { outputGradients } from '../reconstruct/gradients.ts';
import { keptRows, LoSparsePruner, type PruningSchedule } from './losparse.ts';
import { lowRank, residual, type Shape } from './low-rank.ts';

/** A matrix of a slot, and the factors of it. */
export interface Part extends Shape {
  readonly slot: number;
  readonly name: MatrixName;
  readonly factors: Factors;
}

/** What the factors give of a matrix and what they miss, f32 [rows, columns]. */
export interface Split {
  readonly low: Float32Array;
  readonly rest: Float32Array;
}

/** The paper's: pruning begins after one warm-up, and the last four have the final share. The code published with it counts steps from 0. */
export function scheduleOf(steps: number, share: number): PruningSchedule {
  const warmUp = Math.floor(steps / 16);
  return { steps, begin: warmUp, tail: 4 * warmUp, share, first: 0 };
}

/**
 * Every matrix of a layer by a plain SVD, slot by slot: gate, up, down.
 *
 * @param rank of each matrix
 */
export async function partsOf(layer: ExpertLayer, rank: number, signal: AbortSignal | undefined): Promise<Part[]> {
  const parts: Part[] = [];
  for (const slot of layer.slots.keys()) {
    signal?.throwIfAborted();
    const expert = denseMatrices(layer, slot);
    for (const name of matrixNames) {
      const dense = expert[name];
      if (!dense) continue;
      const [rows, columns] = name === 'down' ? [expert.hidden, expert.width] : [expert.width, expert.hidden];
      const factors = await lowRank(dense, { rows, columns }, Math.min(rank, rows, columns), {});
      parts.push({ rows, columns, slot, name, factors });
    }
  }
  return parts;
}

/** The matrices of a layer, part by part. */
export async function splitsOf(layer: ExpertLayer, parts: readonly Part[]): Promise<Split[]> {
  const splits: Split[] = [];
  let [slot, expert]: [number, ExpertMatrices | undefined] = [-1, undefined];
  for (const part of parts) {
    if (part.slot !== slot) [slot, expert] = [part.slot, denseMatrices(layer, part.slot)];
    const dense = expert?.[part.name] as Float32Array;
    const rest = await residual(dense, part.factors, part);
    const low = dense.slice();
    for (let i = 0; i < low.length; i++) low[i] = (low[i] as number) - (rest[i] as number);
    splits.push({ low, rest });
  }
  return splits;
}

/** A pruner of the rows of all rests. */
export function prunerOf(parts: readonly Part[], schedule: PruningSchedule): LoSparsePruner {
  return new LoSparsePruner(
    parts.map(({ rows, columns }) => ({ rows, columns, unit: 'row' })),
    { schedule },
  );
}

/** The layer while its rests are pruned, dense; `kept`: [rows] of a part, 1 for those that are left. */
export function prunedLayer(
  layer: ExpertLayer,
  parts: readonly Part[],
  splits: readonly Split[],
  kept: (at: number) => Uint8Array,
): ExpertLayer {
  return withMatrices(layer, parts, ({ rows, columns }, at) => {
    const { low, rest } = splits[at] as Split;
    const dense = low.slice();
    for (const row of indices(kept(at))) {
      for (let i = row * columns; i < (row + 1) * columns; i++) dense[i] = (dense[i] as number) + (rest[i] as number);
    }
    return { rows, columns, dense };
  });
}

/**
 * MC-SMoE's second step (arXiv 2310.01334, section 3.3): factors, and the rows of what they miss that the loss would miss most.
 *
 * @param o.kept the rows of each part that stay, in the order of {@link partsOf}; absent: those that the layer's own output would miss most,
 * by gradients of its squared error towards the original block, a calibration batch for each step, under a threshold of the layer's own
 * @param o.rows share of the rests' entries that stays, in whole rows
 * @param o.steps of the pruning; 16 or more
 * @throws MoeError RECIPE_INVALID for experts that are not SwiGLU, where rows are to be chosen
 */
export async function losparseLayer(
  layer: ExpertLayer,
  context: LayerContext,
  o: {
    readonly rank: number;
    readonly rows: number;
    readonly steps: number;
    readonly kept?: readonly (readonly number[])[] | undefined;
  },
): Promise<ExpertLayer> {
  const parts = await partsOf(layer, o.rank, context.signal);
  const splits = o.rows > 0 ? await splitsOf(layer, parts) : [];
  const kept = o.kept ?? (o.rows > 0 ? await ownRows(layer, context, parts, splits, scheduleOf(o.steps, o.rows)) : []);
  return withMatrices(layer, parts, ({ rows, columns, factors }, at) => {
    const index = Int32Array.from(kept[at] ?? []);
    if (index.length === 0) return { rows, columns, factors };
    return { rows, columns, factors, kept: keptRows((splits[at] as Split).rest, columns, index) };
  });
}

async function ownRows(
  layer: ExpertLayer,
  context: LayerContext,
  parts: readonly Part[],
  splits: readonly Split[],
  schedule: PruningSchedule,
): Promise<number[][]> {
  const pruner = prunerOf(parts, schedule);
  for (let step = 0; step < schedule.steps; step++) {
    context.signal?.throwIfAborted();
    const now = prunedLayer(layer, parts, splits, (at) => pruner.kept(at));
    const experts = now.slots.map((_, slot) => denseMatrices(now, slot));
    const { slots } = await outputGradients(layer, experts, context, step);
    for (const [at, { slot, name }] of parts.entries()) {
      pruner.observe(at, (splits[at] as Split).rest, slots[slot]?.[name] as Float32Array);
    }
    pruner.prune();
  }
  return parts.map((_, at) => indices(pruner.kept(at)));
}

/** Where there is a 1. */
export function indices(kept: Uint8Array): number[] {
  return Array.from(kept.keys()).filter((at) => kept[at] === 1);
}

/** The layer with other matrices, one for each part. */
function withMatrices(
  layer: ExpertLayer,
  parts: readonly Part[],
  matrixOf: (part: Part, at: number) => Matrix,
): ExpertLayer {
  const slots: Record<string, unknown>[] = layer.slots.map(({ hidden, width }) => ({ hidden, width }));
  for (const [at, part] of parts.entries())
    (slots[part.slot] as Record<string, unknown>)[part.name] = matrixOf(part, at);
  const { baseOf: _, ...rest } = layer;
  return { ...rest, slots: slots as unknown as Expert[] };
}
