/** Bytes of experts before they are there: what a setting will cost, with everything that is stored counted. */
import type { StoredMatrix } from '../checkpoint/stored-matrix.ts';
import { MoeError } from '../errors.ts';
import type { MoeNames, MoeSpec } from '../moe/spec.ts';
import { layerBytes, specOf } from './encode.ts';
import type { ExpertLayer, PartForms } from './experts.ts';

/** An MoE layer as a plan sees it. */
export interface PlannedLayer {
  readonly spec: MoeSpec;
  readonly names: MoeNames;
  readonly forms: ExpertLayer['forms'];
}

/** Of a slot's gate or up, [width, hidden], and of its down projection, [hidden, width]. */
type Shaping = (forms: PartForms, matrix: 'gate' | 'up' | 'down') => StoredMatrix;

const dense: Shaping = (forms) => ({ base: forms.dense });

/** Bytes of a layer whose slots have these widths; `shape`: their parts, dense alone where absent. */
export function plannedBytes(
  { spec, names, forms }: PlannedLayer,
  widths: readonly number[],
  shape: Shaping = dense,
): number {
  const groups = widths.length;
  const described = {
    groups,
    groupOf: Int32Array.from(widths.keys()),
    // A router of slots lets a layer have any number of them.
    router: 'slots' as const,
    widths: Int32Array.from(widths),
    matrices: {
      ...(isGated(spec) && { gate: shape(forms.up, 'gate') }),
      up: shape(forms.up, 'up'),
      down: shape(forms.down, 'down'),
    },
  };
  return layerBytes(specOf(spec, described), names);
}

/** Bytes of all original experts in 16 bits. */
export function originalBytes(layers: readonly PlannedLayer[]): number {
  return layers.reduce((sum, { spec }) => {
    const weights = (isGated(spec) ? 3 : 2) * spec.hidden * spec.width;
    return sum + 2 * spec.router.experts * weights;
  }, 0);
}

/**
 * The largest widths that take at most `ratio` of the original bytes.
 *
 * @param allocate widths [layers][slots] for a share of neurons that stay, never fewer bytes for a larger share
 * @throws MoeError RECIPE_INVALID where not even the smallest widths fit, with the least ratio
 */
export function widthsWithin(
  layers: readonly PlannedLayer[],
  ratio: number,
  allocate: (keep: number) => number[][],
): number[][] {
  const whole = originalBytes(layers);
  const bytes = (widths: readonly number[][]): number =>
    layers.reduce((sum, layer, at) => sum + plannedBytes(layer, widths[at] as number[]), 0);
  const everything = allocate(1);
  if (bytes(everything) <= ratio * whole) return everything;
  let [low, high, best] = [0, 1, allocate(0)];
  if (bytes(best) > ratio * whole) refuseRatio(ratio, bytes(best) / whole);
  // Below 2⁻²⁰ of all neurons there is no width to tell apart.
  for (let round = 0; round < 20; round++) {
    const keep = (low + high) / 2;
    const widths = allocate(keep);
    if (bytes(widths) <= ratio * whole) [low, best] = [keep, widths];
    else high = keep;
  }
  return best;
}

/** The recipe cannot get so small; `least`: how far it can. */
export function refuseRatio(ratio: number, least: number): never {
  // Rounded up, so that the number shown is one that works.
  const shown = (Math.ceil(least * 1e4) / 1e4).toString();
  throw new MoeError('RECIPE_INVALID', {
    argument: 'targetRatio',
    expected: `at least ${shown} for this recipe and format`,
    received: String(ratio),
  });
}

/** Whether the experts have a gate beside up. */
export function isGated({ kind }: MoeSpec): boolean {
  return kind === 'swiglu' || kind === 'geglu';
}
