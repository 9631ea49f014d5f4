/** A layer in runs of slots that fit in memory together, so that statistics never take more than one run's. */
import { addon } from '../addon.ts';
import type { ExpertLayer } from './experts.ts';
import type { RefitStatistics } from './recover/ridge.ts';

/** Bytes of the sums of one run of slots, or of the experts of one run of groups, unless a slot or a group alone has more. */
export const partBytes = 2 ** 26;

export interface LayerPart {
  readonly first: number;
  /** The slots of the run, as they are when it is asked for, as a layer of their own. */
  readonly layer: ExpertLayer;
  /** What the layer's router chooses from (original experts, or all slots) → slot of the run; −1: of another run. */
  readonly partOf: Int32Array;
}

/** The whole layer as one run. */
export function wholePart(layer: ExpertLayer): LayerPart {
  return { first: 0, layer, partOf: layer.router ? Int32Array.from(layer.slots.keys()) : layer.groupOf };
}

/**
 * Runs of slots in order. Slots that share bases stay together.
 *
 * @param slotBytes of the sums of a slot
 * @param most bytes of a run
 */
export function partsOf(layer: ExpertLayer, slotBytes: number, most: number): LayerPart[] {
  const { slots, baseOf, router, groupOf } = layer;
  const whole = wholePart(layer);
  const count = Math.max(1, Math.floor(most / slotBytes));
  if (baseOf || count >= slots.length) return [whole];
  // Of about equal size.
  const size = Math.ceil(slots.length / Math.ceil(slots.length / count));
  const parts: LayerPart[] = [];
  for (let first = 0; first < slots.length; first += size) {
    const end = Math.min(first + size, slots.length);
    const within = (slot: number): number => (slot >= first && slot < end ? slot - first : -1);
    const groups = !router && { groupOf: groupOf.map(within) };
    parts.push({
      first,
      get layer() {
        return { ...layer, slots: layer.slots.slice(first, end), ...groups };
      },
      partOf: whole.partOf.map(within),
    });
  }
  return parts;
}

/** Sums by slot, made for a whole run when one of its slots is asked for, while the layer is entered; those of the last run are kept. */
export class SlotSums<Sums> {
  readonly #parts: readonly LayerPart[];
  readonly #collect: (part: LayerPart) => Promise<readonly Sums[]>;
  #current: { readonly part: LayerPart; readonly sums: readonly Sums[] } | undefined;

  constructor(parts: readonly LayerPart[], collect: (part: LayerPart) => Promise<readonly Sums[]>) {
    this.#parts = parts;
    this.#collect = collect;
  }

  async of(slot: number): Promise<Sums> {
    const part = this.#parts.findLast(({ first }) => first <= slot) as LayerPart;
    if (this.#current?.part !== part) {
      this.#current = undefined;
      await addon().releaseMemory();
      this.#current = { part, sums: await this.#collect(part) };
    }
    return this.#current.sums[slot - part.first] as Sums;
  }
}

/** Rows of each slot of a run, by how often what leads there was chosen. */
export function rowsOf({ layer: { slots }, partOf }: LayerPart, counts: Float64Array): Float64Array {
  const rows = new Float64Array(slots.length);
  partOf.forEach((slot, from) => {
    if (slot >= 0) rows[slot] = (rows[slot] as number) + (counts[from] as number);
  });
  return rows;
}

/** Neurons of the widest slot. */
export function widestOf({ slots }: ExpertLayer): number {
  return Math.max(...slots.map(({ width }) => width), 1);
}

/** The moments of one slot at its own width, of sums with room for the widest. */
export function slotMoments(
  { width: widest, gram, cross, rows }: { width: number; gram: Float64Array; cross: Float64Array; rows: Float64Array },
  slot: number,
  hidden: number,
  width: number,
): RefitStatistics {
  return {
    gram: cut(gram.subarray(slot * widest * widest, (slot + 1) * widest * widest), width, width, widest),
    cross: cut(cross.subarray(slot * hidden * widest, (slot + 1) * hidden * widest), hidden, width, widest),
    rows: rows[slot] as number,
  };
}

/** The first `rows` and `columns` of a matrix of row length `stride`. */
function cut(matrix: Float64Array, rows: number, columns: number, stride: number): Float64Array {
  if (columns === stride) return matrix.subarray(0, rows * columns);
  const part = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) part.set(matrix.subarray(row * stride, row * stride + columns), row * columns);
  return part;
}
