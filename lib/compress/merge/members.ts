/** The members of each group of a layer, their neurons in one order, and the one expert that takes their place. */
import { activationAlignment } from '../align/activations.ts';
import { reamAlignment } from '../align/ream.ts';
import { alignmentTo, permuteNeurons } from '../align/weights.ts';
import type { ExpertMatrices } from '../expert.ts';
import { denseMatrix, type Expert, type ExpertLayer, originalLayer } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import type { MergeStep } from '../recipe/schema.ts';
import { ridgeOf } from '../recover/ridge.ts';
import { leastSquaresDown } from './least-squares.ts';
import { ExpertMean } from './mean.ts';
import { tiesMerge } from './ties.ts';

/** Original experts of one slot. */
export interface Group {
  /** Aligned, in the order of the experts. */
  readonly members: readonly ExpertMatrices[];
  /** Of each member; they add up to 1. */
  readonly shares: readonly number[];
  /** The member that the others follow. */
  readonly dominant: number;
}

/** Share of each difference from the dominant expert that TIES keeps; the paper's. */
const tiesKeep = 0.2;

/**
 * The neurons of every member in the order of its group's reference.
 *
 * @param layer whose slots are the groups
 */
export async function alignMembers(
  groups: readonly Group[],
  layer: ExpertLayer,
  context: LayerContext,
  align: MergeStep['align'],
): Promise<Group[]> {
  if (align === 'none') return [...groups];
  if (align === 'activations' || align === 'ream') return alignByActivations(groups, layer, context, align);
  const first = align === 'first' ? await context.original(0) : undefined;
  const aligned: Group[] = [];
  for (const group of groups) {
    if (group.members.length === 1) {
      aligned.push(group);
      continue;
    }
    const reference = first ?? (group.members[group.dominant] as ExpertMatrices);
    const members: ExpertMatrices[] = [];
    for (const member of group.members) members.push(permuteNeurons(member, await alignmentTo(reference, member)));
    aligned.push({ ...group, members });
  }
  return aligned;
}

/** By what the neurons give, with `ream` also by their weights, on the tokens that reach the group, a member of every group at a time. */
async function alignByActivations(
  groups: readonly Group[],
  layer: ExpertLayer,
  context: LayerContext,
  align: 'activations' | 'ream',
): Promise<Group[]> {
  const references = groups.map(({ members, dominant }) => members[dominant] as ExpertMatrices);
  const aligned = groups.map(({ members }) => [...members]);
  for (const others of eachMember(groups)) {
    const pairs = await context.hiddenPairs(
      plainLayer(layer, references),
      plainLayer(
        layer,
        others.map(({ expert }) => expert),
      ),
    );
    for (const [slot, { at, expert }] of others.entries()) {
      if (at === groups[slot]?.dominant) continue;
      const pair = pairs[slot];
      if (!pair) continue;
      const permutation =
        align === 'ream'
          ? await reamAlignment(
              { activations: pair, weights: { centroid: references[slot] as ExpertMatrices, expert } },
              expert.width,
            )
          : await activationAlignment(pair);
      (aligned[slot] as ExpertMatrices[])[at] = permuteNeurons(expert, permutation);
    }
  }
  return groups.map((group, slot) => ({ ...group, members: aligned[slot] as ExpertMatrices[] }));
}

/** The first member of every group, then the second, …; the dominant one where a group has no more. */
function* eachMember(groups: readonly Group[]): Generator<{ at: number; expert: ExpertMatrices }[]> {
  const most = Math.max(...groups.map(({ members }) => members.length));
  for (let position = 0; position < most; position++) {
    yield groups.map(({ members, dominant }) => {
      const at = position < members.length ? position : dominant;
      return { at, expert: members[at] as ExpertMatrices };
    });
  }
}

/** Experts in the slots of a layer, as exact as they are. */
function plainLayer(layer: ExpertLayer, experts: readonly ExpertMatrices[]): ExpertLayer {
  return { ...originalLayer(experts, layer.kind, { format: 'f32' }), groupOf: layer.groupOf };
}

/** The mean of the members' matrices by their shares. */
export function meanOf({ members, shares }: Group): ExpertMatrices {
  if (members.length === 1) return members[0] as ExpertMatrices;
  const mean = new ExpertMean();
  members.forEach((member, at) => {
    mean.add(member, shares[at] as number);
  });
  return mean.mean();
}

/** The dominant member, moved where the others agree that they differ from it most (TIES). */
export function tiesOf({ members, dominant }: Group): ExpertMatrices {
  const base = members[dominant] as ExpertMatrices;
  if (members.length === 1) return base;
  const others = members.filter((_, at) => at !== dominant);
  const moved = (matrix: 'gate' | 'up' | 'down'): Float32Array | undefined => {
    const own = base[matrix];
    if (!own) return undefined;
    const vectors = others.map((other) =>
      (other[matrix] as Float32Array).map((value, at) => value - (own[at] as number)),
    );
    const { merged } = tiesMerge(vectors, { keep: tiesKeep });
    return own.map((value, at) => value + (merged[at] as number));
  };
  const { hidden, width } = base;
  return { hidden, width, gate: moved('gate'), up: moved('up') as Float32Array, down: moved('down') as Float32Array };
}

/** The layer with each down projection fitted to the members' outputs on the tokens that reach the group (MergeMoE). */
export async function leastSquares(
  layer: ExpertLayer,
  context: LayerContext,
  groups: readonly Group[],
): Promise<ExpertLayer> {
  const own = await context.hiddenPairs(layer, layer);
  const crosses = groups.map((): Float64Array[] => []);
  const { width } = layer.slots[0] as Expert;
  for (const others of eachMember(groups)) {
    const pairs = await context.hiddenPairs(
      plainLayer(
        layer,
        others.map(({ expert }) => expert),
      ),
      layer,
    );
    others.forEach(({ at }, slot) => {
      (crosses[slot] as Float64Array[])[at] = (pairs[slot] as (typeof pairs)[number]).cross.slice();
    });
  }
  const slots = [...layer.slots];
  for (const [slot, { members, shares }] of groups.entries()) {
    const { cross: gram, rows } = own[slot] as (typeof own)[number];
    if (members.length === 1 || rows === 0) continue;
    const parts = members.map(({ down }, at) => ({
      share: shares[at] as number,
      down,
      cross: crosses[slot]?.[at] as Float64Array,
    }));
    const down = await leastSquaresDown(parts, gram, width, ridgeOf(gram, width, rows));
    slots[slot] = { ...(slots[slot] as Expert), down: denseMatrix(layer.hidden, width, down) };
  }
  return { ...layer, slots };
}
