import { alignmentTo, permuteNeurons } from '../align.ts';
import type { ExpertMatrices } from '../expert.ts';
import { denseExpert, type ExpertLayer } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { ExpertMean, mergeShares } from '../merge.ts';
import type { MergeStep } from '../recipe/schema.ts';
import { refitDown } from '../recover/down.ts';
import type { Step } from './step.ts';

/** One expert of each group: aligned and averaged; an expert alone in its group stays as it is. */
export function mergingStep({ align }: MergeStep): Step {
  return {
    async apply(layer, context) {
      const { labels, groups, frequencies } = context.requireGrouping();
      const frequency = Float64Array.from(frequencies);
      const members = Array.from({ length: groups }, (_, group) =>
        labels.flatMap((label, expert) => (label === group ? [expert] : [])),
      );
      const slots: ExpertMatrices[] = [];
      for (const group of members) {
        const reference = align === 'first' ? 0 : mostUsed(frequency, group);
        slots.push(
          await meanOf(context, group, mergeShares(frequency, group), align === 'none' ? undefined : reference),
        );
      }
      const merged: ExpertLayer = { ...layer, slots: slots.map(denseExpert), groupOf: Int32Array.from(labels) };
      const alone = members.map((group) => group.length === 1);
      return context.recover ? refitDown(merged, context, alone) : merged;
    },
  };
}

async function meanOf(
  context: LayerContext,
  members: readonly number[],
  shares: readonly number[],
  reference: number | undefined,
): Promise<ExpertMatrices> {
  if (members.length === 1) return context.original(members[0] as number);
  const target = reference === undefined ? undefined : await context.original(reference);
  const mean = new ExpertMean();
  for (const [index, expert] of members.entries()) {
    const matrices = await context.original(expert);
    const aligned = target ? permuteNeurons(matrices, await alignmentTo(target, matrices)) : matrices;
    mean.add(aligned, shares[index] as number);
  }
  return mean.mean();
}

function mostUsed(frequency: Float64Array, members: readonly number[]): number {
  return members.reduce((best, expert) =>
    (frequency[expert] as number) > (frequency[best] as number) ? expert : best,
  );
}
