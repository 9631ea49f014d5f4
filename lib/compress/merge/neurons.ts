import type { ExpertMatrices } from '../expert.ts';

/** Neurons of a group that are weighed against each other at most: their moments grow with the square. */
export const mostCandidates = 2048;

/** A member of a group. */
export interface Member {
  readonly matrices: ExpertMatrices;
  /** Of the group's rows. */
  readonly share: number;
}

/**
 * One wide expert with all neurons of a group's members; a down column carries its member's share, as the group's gate is the sum of theirs.
 * What it gives is the members' mean; which of its neurons stay is then for the removal curve to say.
 */
export function joinExperts(members: readonly Member[]): ExpertMatrices {
  const { hidden, gate } = (members[0] as Member).matrices;
  const width = members.reduce((sum, { matrices }) => sum + matrices.width, 0);
  const down = new Float32Array(hidden * width);
  let first = 0;
  for (const { matrices, share } of members) {
    for (let row = 0; row < hidden; row++) {
      for (let j = 0; j < matrices.width; j++) {
        down[row * width + first + j] = share * (matrices.down[row * matrices.width + j] as number);
      }
    }
    first += matrices.width;
  }
  const stack = (of: (matrices: ExpertMatrices) => Float32Array): Float32Array => {
    const rows = new Float32Array(width * hidden);
    let at = 0;
    for (const { matrices } of members) {
      rows.set(of(matrices), at);
      at += matrices.width * hidden;
    }
    return rows;
  };
  return {
    hidden,
    width,
    gate: gate && stack((matrices) => matrices.gate as Float32Array),
    up: stack((matrices) => matrices.up),
    down,
  };
}

/**
 * Which neurons of each member stay where there are no more than `most` of them together: those of the largest share² · ‖down column‖² ·
 * second moment.
 *
 * @param energy of each member's neurons: Σ g²·h², f64 [width] each
 * @returns rising indices of each member
 */
export function limitNeurons(members: readonly Member[], energy: readonly Float64Array[], most: number): Int32Array[] {
  const neurons = members.flatMap(({ matrices, share }, member) =>
    Array.from({ length: matrices.width }, (_, j) => {
      let norm = 0;
      for (let row = 0; row < matrices.hidden; row++) norm += (matrices.down[row * matrices.width + j] as number) ** 2;
      return { member, j, worth: share * share * norm * ((energy[member] as Float64Array)[j] as number) };
    }),
  );
  const kept = neurons.sort((a, b) => b.worth - a.worth || a.member - b.member || a.j - b.j).slice(0, most);
  return members.map((_, member) =>
    Int32Array.from(kept.filter((neuron) => neuron.member === member).map(({ j }) => j)).sort(),
  );
}

/** An expert with some of its neurons. */
export function takeNeurons({ hidden, width, gate, up, down }: ExpertMatrices, kept: Int32Array): ExpertMatrices {
  const rows = (matrix: Float32Array): Float32Array => {
    const taken = new Float32Array(kept.length * hidden);
    kept.forEach((from, to) => {
      taken.set(matrix.subarray(from * hidden, (from + 1) * hidden), to * hidden);
    });
    return taken;
  };
  const columns = new Float32Array(hidden * kept.length);
  for (let row = 0; row < hidden; row++) {
    kept.forEach((from, to) => {
      columns[row * kept.length + to] = down[row * width + from] as number;
    });
  }
  return { hidden, width: kept.length, gate: gate && rows(gate), up: rows(up), down: columns };
}
