/** An order of an expert's neurons under which an n:m down projection keeps more. */
import { permuteNeurons } from '../align/weights.ts';
import type { ExpertMatrices } from '../expert.ts';
import { denseExpert, denseMatrices, type Expert, type ExpertLayer } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import { searchPermutation } from '../numerics.ts';
import type { Pattern } from './masks.ts';

/** The longest run that the search takes. */
const longestRun = 64;

/**
 * Reorders the neurons: columns of down and rows of gate and up together, so that the expert gives what it gave. The masks of gate and up
 * do not change by it, as their inputs keep their order.
 *
 * @param norms [width]: a column of down counts times its neuron's norm, as Wanda scores it; absent: alike
 */
export async function permuteForSparsity(
  expert: ExpertMatrices,
  { n, m }: Pattern,
  norms?: ArrayLike<number>,
): Promise<ExpertMatrices> {
  const { hidden, width, down } = expert;
  if (n >= m || m > longestRun || width % m !== 0) return expert;
  const scores = norms ? down.map((value, at) => value * (norms[at % width] as number)) : down;
  const { permutation } = await searchPermutation(scores, hidden, width, { n, m });
  return permuteNeurons(expert, permutation);
}

/**
 * The neurons of every slot reordered.
 *
 * @param weighted by what the neurons give on the tokens that reach the slot
 */
export async function permuteSlots(
  layer: ExpertLayer,
  context: LayerContext,
  pattern: Pattern,
  weighted: boolean,
): Promise<ExpertLayer> {
  const moments = weighted ? await context.hiddenMoments(layer) : undefined;
  const slots: Expert[] = [];
  for (const slot of layer.slots.keys()) {
    context.signal?.throwIfAborted();
    const expert = denseMatrices(layer, slot);
    const { width } = expert;
    const own = await moments?.of(slot);
    const norms =
      own && own.rows > 0
        ? Float64Array.from({ length: width }, (_, at) => Math.sqrt(own.gram[at * width + at] as number))
        : undefined;
    slots.push(denseExpert(await permuteForSparsity(expert, pattern, norms)));
  }
  return { ...layer, slots };
}
