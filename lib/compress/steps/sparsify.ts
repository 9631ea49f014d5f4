import { denseMatrices, type Expert, type ExpertLayer, type Matrix } from '../experts.ts';
import { gather, patternOf } from '../factorize/low-rank.ts';
import type { LayerContext } from '../layer-context.ts';
import { sparseGpt } from '../numerics.ts';
import type { SparsifyStep } from '../recipe/schema.ts';
import { refittedDown } from '../recover/down.ts';
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
      const moments = await context.hiddenMoments(above, { together: context.recover });
      const slots: Expert[] = [];
      for (const [slot, expert] of above.slots.entries()) {
        const statistics = await moments.of(slot);
        const { down } = denseMatrices(above, slot);
        const { dense = down }: Partial<Matrix> = context.recover ? await refittedDown(expert, statistics) : {};
        slots.push({ ...expert, down: await prune(dense, layer.hidden, expert.width, statistics.gram) });
      }
      return { ...above, slots };
    },
  };
}

async function pruneUp(
  layer: ExpertLayer,
  context: LayerContext,
  prune: (dense: Float32Array, rows: number, columns: number, moment: Float64Array) => Promise<Matrix>,
): Promise<ExpertLayer> {
  const { hidden } = layer;
  const moments = context.inputMoments(layer, 0);
  const slots: Expert[] = [];
  for (const slot of layer.slots.keys()) {
    context.signal?.throwIfAborted();
    const { width, gate, up } = denseMatrices(layer, slot);
    const { gram: moment } = await moments.of(slot);
    slots.push({
      ...(layer.slots[slot] as Expert),
      ...(gate && { gate: await prune(gate, width, hidden, moment) }),
      up: await prune(up, width, hidden, moment),
    });
  }
  return { ...layer, slots };
}
