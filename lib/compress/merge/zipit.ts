import { MoeError } from '../../errors.ts';
import { neuronRows } from '../align/weights.ts';
import { type ExpertMatrices, transpose } from '../expert.ts';
import { addProduct } from '../numerics.ts';

export interface Fold {
  readonly expert: ExpertMatrices;
  /** Its neurons' weight in a fold, above 0: usage, or 1. */
  readonly coefficient: number;
}

/**
 * How much the likeness of a folded neuron counts, by activations: it is only estimated, so pairs that were never
 * folded come first.
 */
const repeatedFold = 0.1;

/**
 * Folds all members' neurons into one expert's width ("within and across" merging of MC-SMoE's code, after ZipIt, arXiv
 * 2305.03053): the two neurons that are most alike, of one member or of two, become their weighted mean, again and
 * again.
 *
 * Likeness is the dot product of [gate ‖ up ‖ downᵀ] rows, computed anew for each folded neuron; or, with
 * `correlation`, that of the neurons' activations, of which a folded neuron gets 0.1 times the lesser of its two rows.
 *
 * @param correlation f64 [n, n], n the members' widths together; see `hiddenCorrelation`
 * @returns an expert of the first member's width
 * @throws MoeError INVALID_ARGUMENT for no members, or a correlation of another size
 */
export async function foldNeurons(members: readonly Fold[], correlation?: Float64Array): Promise<ExpertMatrices> {
  const [first] = members;
  const count = members.reduce((sum, { expert }) => sum + expert.width, 0);
  if (!first || (correlation && correlation.length !== count * count)) {
    throw new MoeError('INVALID_ARGUMENT', {
      argument: first ? 'correlation' : 'members',
      expected: first ? `${count} × ${count} values` : 'one or more',
      received: first ? `${correlation?.length} values` : 'none',
    });
  }
  const { width, hidden } = first.expert;
  const rows = members.map(({ expert }) => neuronRows(expert));
  const parts = neuronRows(first.expert).map((_, part) => stack(rows.map((own) => own[part] ?? [])));
  const coefficients = Float64Array.from(
    members.flatMap((member) => Array(member.expert.width).fill(member.coefficient)),
  );
  const likeness = correlation ? Float64Array.from(correlation) : new Float64Array(count * count);
  if (!correlation) for (const part of parts) await addProduct(part, part, count, hidden, likeness);
  const alive = Array.from({ length: count }, (_, neuron) => neuron);
  const nearest = new NearestNeurons(likeness, alive);
  while (alive.length > width) {
    const [kept, gone] = nearest.pair(alive);
    const [a, b] = [coefficients[kept] as number, coefficients[gone] as number];
    for (const part of parts) {
      for (let i = 0; i < hidden; i++) {
        const [at, from] = [kept * hidden + i, gone * hidden + i];
        part[at] = (a * (part[at] as number) + b * (part[from] as number)) / (a + b);
      }
    }
    coefficients[kept] = a + b;
    alive.splice(alive.indexOf(gone), 1);
    for (const other of alive) {
      if (other === kept) continue;
      const value = correlation
        ? repeatedFold * Math.min(likeness[kept * count + other] as number, likeness[gone * count + other] as number)
        : parts.reduce((sum, part) => sum + dot(part, kept, other, hidden), 0);
      likeness[kept * count + other] = value;
      likeness[other * count + kept] = value;
    }
    nearest.update(kept, gone, alive);
  }
  const folded = parts.map((part) => stack(alive.map((row) => part.subarray(row * hidden, (row + 1) * hidden))));
  const down = transpose(folded.at(-1) as Float32Array, width, hidden);
  const [gate, up] = folded.length === 3 ? folded : [undefined, folded[0]];
  return { width, hidden, gate, up: up as Float32Array, down };
}

/** The neuron that each row is most alike to, so that a fold looks at few rows again. */
class NearestNeurons {
  readonly #likeness: Float64Array;
  readonly #count: number;
  readonly #nearest: Int32Array;

  constructor(likeness: Float64Array, alive: readonly number[]) {
    this.#likeness = likeness;
    this.#count = alive.length;
    this.#nearest = Int32Array.from(alive, (row) => this.#search(row, alive));
  }

  /** The first of the most alike pairs. */
  pair(alive: readonly number[]): [kept: number, gone: number] {
    const value = (row: number): number => this.#likeness[row * this.#count + (this.#nearest[row] as number)] as number;
    const row = alive.reduce((best, other) => (value(other) > value(best) ? other : best));
    return [row, this.#nearest[row] as number];
  }

  /** After `gone` was folded into `kept`, whose likeness to all others is new. */
  update(kept: number, gone: number, alive: readonly number[]): void {
    for (const row of alive) {
      const nearest = this.#nearest[row] as number;
      if (row === kept || nearest === kept || nearest === gone) {
        this.#nearest[row] = this.#search(row, alive);
        continue;
      }
      const [own, other] = [kept, nearest].map((column) => this.#likeness[row * this.#count + column] as number);
      if ((own as number) > (other as number) || (own === other && kept < nearest)) this.#nearest[row] = kept;
    }
  }

  #search(row: number, alive: readonly number[]): number {
    const value = (column: number): number => this.#likeness[row * this.#count + column] as number;
    return alive.reduce((best, column) =>
      best === row || (column !== row && value(column) > value(best)) ? column : best,
    );
  }
}

function dot(rows: Float32Array, a: number, b: number, columns: number): number {
  let sum = 0;
  for (let i = 0; i < columns; i++) sum += (rows[a * columns + i] as number) * (rows[b * columns + i] as number);
  return sum;
}

function stack(parts: readonly ArrayLike<number>[]): Float32Array {
  const rows = new Float32Array(parts.reduce((length, part) => length + part.length, 0));
  parts.reduce((at, part) => {
    rows.set(part, at);
    return at + part.length;
  }, 0);
  return rows;
}
