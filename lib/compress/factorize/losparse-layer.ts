/** LoSparse on the experts of a layer. */
import type { ExpertMatrices } from '../expert.ts';
import { denseMatrices, type Expert, type ExpertLayer, type Matrix } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { type MatrixName, outputGradients } from '../reconstruct/gradients.ts';
import { decompose, LoSparsePruner, type PruningSchedule, remainingRows } from './losparse.ts';
import type { Shape } from './low-rank.ts';

/** The paper's: pruning begins after one warm-up, and the last four have the final share. */
function scheduleOf(steps: number, share: number): PruningSchedule {
  const warmUp = Math.floor(steps / 16);
  return { steps, begin: warmUp, tail: 4 * warmUp, share };
}

const names: readonly MatrixName[] = ['gate', 'up', 'down'];

/** A matrix on its way: what the factors give, and the rest that is pruned. */
interface Part extends Shape {
  readonly slot: number;
  readonly name: MatrixName;
  readonly matrix: Matrix;
  readonly low: Float32Array;
  readonly rest: Float32Array;
}

/**
 * MC-SMoE's second step (arXiv 2310.01334, section 3.3): every matrix as low rank by a plain SVD, and the rows of what that misses that the
 * loss would miss most. The published gradients are those of the whole model's loss, with one threshold over all layers. Here the loss is
 * the squared error of the layer's own output towards the original block, a calibration batch for each step, with one threshold
 * over all matrices of the layer: one layer is in memory at a time.
 *
 * @param o.rank of each matrix
 * @param o.rows share of the rests' entries that stays, in whole rows
 * @param o.steps of the pruning; 16 or more
 * @throws MoeError RECIPE_INVALID for experts that are not SwiGLU
 */
export async function losparseLayer(
  layer: ExpertLayer,
  context: LayerContext,
  { rank, rows, steps }: { readonly rank: number; readonly rows: number; readonly steps: number },
): Promise<ExpertLayer> {
  const parts: Part[] = [];
  for (const slot of layer.slots.keys()) {
    context.signal?.throwIfAborted();
    const expert = denseMatrices(layer, slot);
    for (const name of names) {
      const dense = expert[name];
      if (!dense) continue;
      const [height, columns] = name === 'down' ? [expert.hidden, expert.width] : [expert.width, expert.hidden];
      const shape = { rows: height, columns };
      const { factors, rest } = await decompose(dense, shape, Math.min(rank, height, columns));
      const low = dense.map((value, at) => value - (rest[at] as number));
      parts.push({ ...shape, slot, name, matrix: { ...shape, factors }, low, rest });
    }
  }
  if (rows > 0) await prune(layer, context, parts, scheduleOf(steps, rows));
  const slots = layer.slots.map(({ hidden, width }, slot) => {
    const own = parts.filter((part) => part.slot === slot);
    const matrices = own.map((part) => {
      const kept = rows > 0 ? remainingRows(part.rest, part) : undefined;
      return [part.name, { ...part.matrix, ...(kept?.index.length && { kept }) }] as const;
    });
    return { hidden, width, ...Object.fromEntries(matrices) } as unknown as Expert;
  });
  const { baseOf: _, ...rest } = layer;
  return { ...rest, slots };
}

async function prune(
  layer: ExpertLayer,
  context: LayerContext,
  parts: readonly Part[],
  schedule: PruningSchedule,
): Promise<void> {
  const matrices = parts.map((part) => ({ ...part, values: part.rest, unit: 'row' as const }));
  const pruner = new LoSparsePruner(matrices, { schedule });
  for (let step = 0; step < schedule.steps; step++) {
    context.signal?.throwIfAborted();
    const experts = layer.slots.map(({ hidden, width }, slot): ExpertMatrices => {
      const own = parts.filter((part) => part.slot === slot);
      const sums = own.map(({ name, low, rest }) => [name, low.map((value, at) => value + (rest[at] as number))]);
      return { hidden, width, ...Object.fromEntries(sums) };
    });
    const { slots } = await outputGradients(layer, experts, context, step);
    pruner.step(parts.map(({ slot, name }) => slots[slot]?.[name] as Float32Array));
  }
}
