import { denseMatrices, type Expert, type ExpertLayer, type Matrix } from '../experts.ts';
import { deltaLayer } from '../factorize/delta.ts';
import { jointRank, splitRows } from '../factorize/gated.ts';
import { losparseLayer } from '../factorize/losparse-layer.ts';
import { losparseRows } from '../factorize/losparse-model.ts';
import {
  lowRankWithRows,
  lowRankWithSparse,
  type Metric,
  patternOf,
  type Shape,
  whiteningOf,
} from '../factorize/low-rank.ts';
import type { LayerContext } from '../layer-context.ts';
import type { FactorizeStep } from '../recipe/schema.ts';
import { refitFactors } from '../recover/factors.ts';
import { ridgeSolve } from '../recover/ridge.ts';
import type { Step } from './step.ts';

/** What a matrix becomes. */
interface Target {
  readonly rank: number;
  /** Share of rows kept whole. */
  readonly rows: number;
  readonly sparse: { readonly n: number; readonly m: number } | undefined;
}

/**
 * Matrices as low rank with kept rows or an n:m part. gate and up read the same input, so one pair of factors serves both, of the rank that
 * costs as much as two pairs of the rank asked for. The down projection is first refitted to what gate and up then give.
 */
export function factorizingStep(step: FactorizeStep): Step {
  const { steps = 64, rows } = step;
  const rankOf = (layer: number): number => (step.layers?.[layer] ?? step).rank;
  return {
    async plan(plan) {
      const byModel = step.method === 'losparse' && step.importance === 'model' && rows > 0;
      return byModel ? losparseRows(plan, { rankOf, rows, steps }) : [];
    },
    async apply(layer, context, decision) {
      const rank = rankOf(context.index);
      const target: Target = {
        rank,
        rows,
        sparse: step.sparse === undefined ? undefined : patternOf(step.sparse, 'sparse'),
      };
      if (step.method === 'delta') return deltaLayer(layer, context, rank);
      if (step.method === 'losparse') {
        const kept = decision as readonly (readonly number[])[] | undefined;
        const published = await losparseLayer(layer, context, { ...target, steps, kept });
        return context.recover ? refitFactors(published, context) : published;
      }
      const weighted = step.method !== 'svd';
      const above = await factorizeUp(layer, context, target, weighted);
      const factorized = await factorizeDown(above, context, target, weighted);
      return context.recover ? refitFactors(factorized, context) : factorized;
    },
  };
}

async function factorizeUp(
  layer: ExpertLayer,
  context: LayerContext,
  target: Target,
  weighted: boolean,
): Promise<ExpertLayer> {
  const { hidden } = layer;
  const moments = weighted || target.sparse ? context.inputMoments(layer, 2) : undefined;
  const slots: Expert[] = [];
  for (const slot of layer.slots.keys()) {
    context.signal?.throwIfAborted();
    const expert = denseMatrices(layer, slot);
    const { width } = expert;
    const moment = (await moments?.of(slot))?.gram;
    const whiten = moment && weighted ? await whiteningOf(moment, hidden) : undefined;
    // A neuron counts as much as the column that carries it on.
    const row = weighted ? columnNorms(expert.down, hidden, width) : undefined;
    const own = { rows: width, columns: hidden };
    if (!expert.gate) {
      const up = await factorizeMatrix(expert.up, own, target, { whiten, row }, moment);
      slots.push({ ...(layer.slots[slot] as Expert), up });
      continue;
    }
    const both = new Float32Array(2 * width * hidden);
    both.set(expert.gate);
    both.set(expert.up, width * hidden);
    const shared = { ...target, rank: Math.min(jointRank(target.rank, width, hidden), 2 * width, hidden) };
    const rows = row && Float64Array.from({ length: 2 * width }, (_, at) => row[at % width] as number);
    const joint = await factorizeMatrix(
      both,
      { rows: 2 * width, columns: hidden },
      shared,
      { whiten, row: rows },
      moment,
    );
    const [gate, up] = splitRows(joint, width);
    slots.push({ hidden, width, gate, up, down: (layer.slots[slot] as Expert).down });
  }
  const { baseOf: _, ...rest } = layer;
  return { ...rest, slots };
}

async function factorizeDown(
  layer: ExpertLayer,
  context: LayerContext,
  target: Target,
  weighted: boolean,
): Promise<ExpertLayer> {
  const { hidden } = layer;
  const moments = weighted || target.sparse ? await context.hiddenMoments(layer) : undefined;
  const slots: Expert[] = [];
  for (const [slot, expert] of layer.slots.entries()) {
    context.signal?.throwIfAborted();
    const { width } = expert;
    const own = { rows: hidden, columns: width };
    let { down } = denseMatrices(layer, slot);
    if (!moments) {
      slots.push({ ...expert, down: await factorizeMatrix(down, own, target, {}, undefined) });
      continue;
    }
    const statistics = await moments.of(slot);
    // With the refit first, the whitened factors are those of a reduced-rank regression on the target itself.
    if (context.recover) down = await ridgeSolve(statistics, down, width, hidden);
    const whiten = weighted ? await whiteningOf(statistics.gram, width) : undefined;
    slots.push({ ...expert, down: await factorizeMatrix(down, own, target, { whiten }, statistics.gram) });
  }
  return { ...layer, slots };
}

function factorizeMatrix(
  weight: Float32Array,
  shape: Shape,
  { rank, rows, sparse }: Target,
  metric: Metric,
  moment: Float64Array | undefined,
): Promise<Matrix> {
  const most = Math.min(rank, shape.rows, shape.columns);
  if (sparse && moment) return lowRankWithSparse(weight, shape, most, sparse, moment, metric);
  return lowRankWithRows(weight, shape, most, Math.round(rows * shape.rows), metric);
}

function columnNorms(matrix: Float32Array, rows: number, columns: number): Float64Array {
  const squares = new Float64Array(columns);
  for (let at = 0; at < rows * columns; at++) {
    squares[at % columns] = (squares[at % columns] as number) + (matrix[at] as number) ** 2;
  }
  return squares.map(Math.sqrt);
}
