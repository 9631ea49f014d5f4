import type { NeuronCurve } from '../numerics.ts';

export interface WidthOptions {
  /** Share of all neurons that stay, 0 … 1. */
  readonly keep: number;
  /** Where widths are free: over all layers, within each layer, or nowhere. */
  readonly scope: 'model' | 'layer' | 'equal';
  /** Widths are multiples of it, or the expert's own width. */
  readonly multiple: number;
}

/** The multiple that widths have where a recipe names none: fine steps for small experts, whole tiles for large ones. */
export function defaultMultiple(width: number): number {
  return Math.min(16, 2 ** Math.max(0, Math.floor(Math.log2(width / 64))));
}

/** Neurons that go or stay together. */
interface Block {
  readonly layer: number;
  readonly expert: number;
  readonly neurons: number;
  /** Of one neuron on average. */
  readonly cost: number;
}

/**
 * How many neurons each expert keeps: the costliest blocks of all experts, until the budget is spent. As costs never fall along an expert's
 * curve, what stays of it is always its end.
 *
 * @param curves [layers][experts]
 * @param sensitivity [layers]: how much a unit of squared output error of each layer costs the model; see sensitivity.ts
 * @returns [layers][experts] widths; 1 where nothing of an expert is worth keeping, as a bank has no empty slots
 */
export function allocateWidths(
  curves: readonly (readonly NeuronCurve[])[],
  sensitivity: readonly number[],
  { keep, scope, multiple }: WidthOptions,
): number[][] {
  if (scope === 'equal') {
    const widths = curves.flat().map(({ order }) => order.length);
    const width = nearestMultiple(keep * Math.min(...widths), multiple, Math.min(...widths));
    return curves.map((layer) => layer.map(() => width));
  }
  const blocks = curves.map((layer, at) =>
    layer.flatMap((removal, expert) => blocksOf(removal, at, expert, multiple, sensitivity[at] ?? 1)),
  );
  const widths = curves.map((layer) => layer.map(() => 0));
  for (const shared of scope === 'model' ? [blocks.flat()] : blocks) {
    const total = shared.reduce((sum, { neurons }) => sum + neurons, 0);
    let left = keep * total;
    for (const { layer, expert, neurons } of shared.toSorted((a, b) => b.cost - a.cost)) {
      // The last block goes where half of it fits: the sum is then nearest to the budget.
      if (left < neurons / 2) break;
      left -= neurons;
      (widths[layer] as number[])[expert] = ((widths[layer] as number[])[expert] as number) + neurons;
    }
  }
  return widths.map((layer) => layer.map((width) => Math.max(1, width)));
}

/** An expert's neurons from the costliest on; the last block is short where the width is no multiple. */
function blocksOf({ curve }: NeuronCurve, layer: number, expert: number, multiple: number, weight: number): Block[] {
  const blocks: Block[] = [];
  for (let end = curve.length; end > 0; end -= multiple) {
    const block = curve.subarray(Math.max(0, end - multiple), end);
    const cost = (weight * block.reduce((sum, value) => sum + value, 0)) / block.length;
    blocks.push({ layer, expert, neurons: block.length, cost });
  }
  return blocks;
}

function nearestMultiple(width: number, multiple: number, most: number): number {
  return Math.min(most, Math.max(multiple, Math.round(width / multiple) * multiple));
}
