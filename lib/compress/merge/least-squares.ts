import { MoeError } from '../../errors.ts';
import { product, ridgeSolve } from '../numerics.ts';

/** One member of a group and how its hidden rows go with those of the merged expert. */
export interface MergedMember {
  /** b: its share of the group, of which all add up to 1. */
  readonly share: number;
  /** f32 [hidden, width]. */
  readonly down: Float32Array;
  /** Q·Pᵀ: Σ q·pᵀ over the calibration rows, f64 [width, width]; q its hidden row, p that of the merged expert. */
  readonly cross: Float64Array;
}

/**
 * MergeMoE's down projection (section 4): D = Σ_j b_j·D_j·T_j, where T = Q·P⁺ maps the hidden rows P of the merged
 * expert, whose gate and up are means, to the stacked hidden rows Q of its members. T comes from the normal equations
 * and stays near the stacked identities, the plain mean, by `ridge`: without it few rows would not determine T.
 *
 * @param gram P·Pᵀ: Σ p·pᵀ, f64 [width, width]
 * @param ridge above 0; on the scale of gram's diagonal
 * @returns f32 [hidden, width]
 */
export async function leastSquaresDown(
  members: readonly MergedMember[],
  gram: Float64Array,
  width: number,
  ridge: number,
): Promise<Float32Array> {
  const [first] = members;
  if (!first || gram.length !== width * width || members.some(({ cross }) => cross.length !== width * width)) {
    throw new MoeError('INVALID_ARGUMENT', {
      argument: 'members',
      expected: `one or more, with products of ${width} × ${width}`,
      received: `${members.length} members, a gram of ${gram.length} values`,
    });
  }
  const hidden = first.down.length / width;
  const sum = new Float64Array(hidden * width);
  for (const { share, down, cross } of members) {
    const transform = await hiddenTransform(cross, gram, width, ridge);
    const part = await product(down, transform, { rows: hidden, columns: width, depth: width });
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + share * (part[i] as number);
  }
  return Float32Array.from(sum);
}

/**
 * T [width, width] = argmin ‖T·P − Q‖² + ridge·‖T − I‖²: how a member's hidden row follows from the merged expert's.
 */
export async function hiddenTransform(
  cross: Float64Array,
  gram: Float64Array,
  width: number,
  ridge: number,
): Promise<Float64Array> {
  const identity = new Float64Array(width * width);
  for (let i = 0; i < width; i++) identity[i * width + i] = 1;
  return ridgeSolve(gram, cross, identity, width, width, ridge);
}
