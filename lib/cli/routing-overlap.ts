/** How far two routers choose the same experts for the same tokens. */

/** What one layer's router chose. */
export interface LayerChoices {
  readonly layer: number;
  readonly topK: number;
  /** Rows of the router. */
  readonly experts: number;
  /**
   * i32 [original experts] → row of the router, −1: the expert is gone; where the router chooses among stored experts. Absent: its
   * rows are the original experts, also where some of them were merged.
   */
  readonly slotOf: Int32Array | undefined;
  /** i32 [tokens, topK]; −1: none. */
  readonly ids: Int32Array;
}

export interface LayerOverlap {
  readonly layer: number;
  /** Mean over the tokens of the share of the first model's choices that the second one makes too; null: they cannot be compared. */
  readonly overlap: number | null;
  /** What was compared: original experts; or stored experts, where a slot stands for all original experts that went into it. */
  readonly by: 'experts' | 'slots' | 'nothing';
}

/** The overlap of `b`'s choices with those of `a`. */
export function routingOverlap(a: LayerChoices, b: LayerChoices): LayerOverlap {
  const { layer } = a;
  const common = commonIds(a, b);
  if (!common) return { layer, overlap: null, by: 'nothing' };
  const tokens = a.ids.length / a.topK;
  let sum = 0;
  for (let token = 0; token < tokens; token++) {
    const chosen = chosenBy(a, token);
    const others = new Set(chosenBy(b, token).map(common.b));
    const agreed = chosen.filter((id) => others.has(common.a(id))).length;
    sum += chosen.length > 0 ? agreed / chosen.length : 1;
  }
  return { layer, overlap: sum / tokens, by: common.by };
}

function chosenBy({ ids, topK }: LayerChoices, token: number): number[] {
  return Array.from(ids.subarray(token * topK, (token + 1) * topK)).filter((id) => id >= 0);
}

interface CommonIds {
  readonly by: 'experts' | 'slots';
  /** From a choice to an id that both sides share; undefined: the other side has none like it. */
  readonly a: (id: number) => number | undefined;
  readonly b: (id: number) => number | undefined;
}

const itself = (id: number): number => id;
/** Never among the other side's ids. */
const gone = (slot: number | undefined): number | undefined => (slot === -1 ? undefined : slot);

function commonIds(a: LayerChoices, b: LayerChoices): CommonIds | undefined {
  if ((a.slotOf?.length ?? a.experts) !== (b.slotOf?.length ?? b.experts)) return undefined;
  const [ownA, ownB] = [originals(a), originals(b)];
  if (ownA && ownB) return { by: 'experts', a: ownA, b: ownB };
  if (!a.slotOf) return { by: 'slots', a: (id) => gone(b.slotOf?.[id]), b: itself };
  if (!b.slotOf) return { by: 'slots', a: itself, b: (id) => gone(a.slotOf?.[id]) };
  const { slotOf } = b;
  return a.slotOf.every((slot, expert) => slot === slotOf[expert]) ? { by: 'slots', a: itself, b: itself } : undefined;
}

/** From a row of the router to its original expert, where each row stands for one. */
function originals({ slotOf, experts }: LayerChoices): ((id: number) => number | undefined) | undefined {
  if (!slotOf) return itself;
  const expertOf = new Map<number, number>();
  slotOf.forEach((slot, expert) => {
    if (slot >= 0) expertOf.set(slot, expert);
  });
  const members = slotOf.reduce((sum, slot) => sum + (slot >= 0 ? 1 : 0), 0);
  return members === experts ? (row) => expertOf.get(row) : undefined;
}
