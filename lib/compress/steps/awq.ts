/** Scales under which rounding costs least (AWQ): of each neuron, and of each input of a layer's gates and ups. */
import { MoeError } from '../../errors.ts';
import { type Expert, type ExpertLayer, readMatrix } from '../experts.ts';
import { powersOfTwo, withInputScales } from '../input-scales.ts';
import type { LayerContext } from '../layer-context.ts';
import { candidateScales, divideRows, scaleColumns, searchScales } from '../quantize/awq.ts';
import { rounded } from '../quantize/rounding.ts';
import type { QuantizeStep } from '../recipe/schema.ts';
import { refittedDown } from '../recover/down.ts';
import type { Step } from './step.ts';

/** Kinds whose hidden row follows the scale of an up row. */
const scalableKinds: readonly ExpertLayer['kind'][] = ['swiglu', 'geglu', 'relu'];

/** Inputs of gate and up first, neurons on what they then give. */
export function scalingStep({ scales }: QuantizeStep): Step {
  return {
    async apply(layer, context) {
      const above = scales.includes('gate-up') ? await scaleInputs(layer, context) : layer;
      return scales.includes('down') ? scaleNeurons(above, context) : above;
    },
  };
}

/**
 * One scale for each input of all gates and ups of the layer: its root mean square to the power under which the block's output, all experts
 * rounded, is nearest to the original one. Kept as it is where no power does better than 0, and where a matrix is no plain dense one.
 */
async function scaleInputs(layer: ExpertLayer, context: LayerContext): Promise<ExpertLayer> {
  const magnitude = await context.inputMagnitude();
  let best = { layer, error: Number.POSITIVE_INFINITY };
  let before: Float32Array | undefined;
  for (const exact of candidateScales(magnitude)) {
    context.signal?.throwIfAborted();
    const scales = powersOfTwo(exact);
    if (before?.every((scale, at) => scale === scales[at])) continue;
    before = scales;
    const scaled = scales.every((scale) => scale === 1) ? layer : withInputScales(layer, scales);
    if (!scaled) return layer;
    const { error } = await context.blockError(scaled);
    if (error < best.error) best = { layer: scaled, error };
  }
  return best.layer;
}

/**
 * Gives each neuron the scale under which rounding the down projection costs least: its up row is divided by it, its down column multiplied,
 * so that the expert itself stays as it is.
 */
async function scaleNeurons(layer: ExpertLayer, context: LayerContext): Promise<ExpertLayer> {
  const { hidden, kind } = layer;
  if (!scalableKinds.includes(kind)) {
    const expected = 'experts with a gate or a ReLU for awq';
    throw new MoeError('RECIPE_INVALID', { argument: 'method', expected, received: kind });
  }
  const moments = await context.hiddenMoments(layer, { together: context.recover });
  const form = layer.forms.down.dense;
  const slots: Expert[] = [];
  for (const [slot, own] of layer.slots.entries()) {
    context.signal?.throwIfAborted();
    const statistics = await moments.of(slot);
    const { gram, rows } = statistics;
    const expert = context.recover ? { ...own, down: await refittedDown(own, statistics) } : own;
    const { width, up, down } = expert;
    if (rows === 0 || !up.dense || !down.dense || up.factors || up.kept || up.sparse) {
      slots.push(expert);
      continue;
    }
    const magnitude = Float64Array.from({ length: width }, (_, at) =>
      Math.sqrt((gram[at * width + at] as number) / rows),
    );
    const input = { magnitude, moment: gram };
    const { scales } = await searchScales([{ weight: down.dense, rows: hidden }], input, {
      round: (weight, count, columns) => rounded(weight, count, columns, form),
    });
    const scaledUp = readMatrix({ rows: width, columns: hidden }, () => divideRows(up.dense as Float32Array, scales));
    slots.push({ ...expert, up: scaledUp, down: { ...down, dense: scaleColumns(down.dense, scales) } });
  }
  return { ...layer, slots };
}
