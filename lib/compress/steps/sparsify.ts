import { denseMatrices, type Expert, type ExpertLayer, type Matrix } from '../experts.ts';
import { gather, patternOf } from '../factorize/low-rank.ts';
import { type LayerContext, slotMoments } from '../layer-context.ts';
import { sparseGpt } from '../numerics.ts';
import type { SparsifyStep } from '../recipe/schema.ts';
import { refitDown } from '../recover/down.ts';
import { magnitudeMask, wandaMask } from '../sparsify/masks.ts';
import { permuteSlots } from '../sparsify/permute.ts';
import type { Step } from './step.ts';

/** At most n of every m weights along the inputs: gate and up first, then down on what they give. */
export function sparsifyingStep({ method, pattern, permute }: SparsifyStep): Step {
  const nm = patternOf(pattern, 'pattern');
  const prune = async (dense: Float32Array, rows: number, columns: number, moment: Float64Array): Promise<Matrix> => {
    const { n, m } = nm;
    if (method === 'sparsegpt' && moment.some((value) => value > 0)) {
      const { weight, mask } = await sparseGpt(dense, moment, rows, columns, nm);
      return { rows, columns, sparse: gather(weight, mask, { rows, columns }, n, m) };
    }
    const squares = Float64Array.from({ length: columns }, (_, at) => moment[at * columns + at] as number);
    const mask =
      method === 'wanda' ? wandaMask(dense, squares, rows, columns, nm) : magnitudeMask(dense, rows, columns, nm);
    return { rows, columns, sparse: gather(dense, mask, { rows, columns }, n, m) };
  };
  return {
    async apply(layer, context) {
      const ordered = permute ? await permuteSlots(layer, context, nm, method !== 'magnitude') : layer;
      const above = await pruneUp(ordered, context, prune);
      const fitted = context.recover ? await refitDown(above, context, { together: true }) : above;
      const { hidden } = layer;
      const moments = await context.hiddenMoments(fitted);
      const slots: Expert[] = [];
      for (const [slot, expert] of fitted.slots.entries()) {
        const { gram } = slotMoments(moments, slot, hidden, expert.width);
        const { down } = denseMatrices(fitted, slot);
        slots.push({ ...expert, down: await prune(down, hidden, expert.width, gram) });
      }
      return { ...fitted, slots };
    },
  };
}

async function pruneUp(
  layer: ExpertLayer,
  context: LayerContext,
  prune: (dense: Float32Array, rows: number, columns: number, moment: Float64Array) => Promise<Matrix>,
): Promise<ExpertLayer> {
  const { hidden } = layer;
  const { gram } = await context.inputMoments(layer, 0);
  const slots: Expert[] = [];
  for (const slot of layer.slots.keys()) {
    context.signal?.throwIfAborted();
    const { width, gate, up } = denseMatrices(layer, slot);
    const moment = gram.subarray(slot * hidden * hidden, (slot + 1) * hidden * hidden);
    slots.push({
      ...(layer.slots[slot] as Expert),
      ...(gate && { gate: await prune(gate, width, hidden, moment) }),
      up: await prune(up, width, hidden, moment),
    });
  }
  return { ...layer, slots };
}
