import { addon } from '../../addon.ts';

/** Sums over the rows t that reach a group; h is the merged expert's hidden row, g its summed gate, target the members' gated outputs. */
export interface RefitStatistics {
  /** A = Σ g²·h·hᵀ, f64 [width, width]. */
  readonly gram: Float64Array;
  /** B = Σ target·(g·h)ᵀ, f64 [hidden, width]. */
  readonly cross: Float64Array;
  readonly rows: number;
}

/**
 * The down projection of a merged expert that reproduces its members' gated outputs best, by least squares with a ridge towards the
 * averaged one ("average merge with refit"; the same normal equations as MergeMoE, section 4):
 * D = argmin Σ_t ‖D·g_t·h_t − target_t‖² + λ‖D − D⁰‖², λ = mean(diag A) · max(10⁻³, 10·(width / rows)²) + 10⁻⁶.
 * The second term keeps a group that few tokens reach near its average; docs/compression.md has the figures behind it.
 *
 * @param average D⁰, f32 [hidden, width]
 * @returns f32 [hidden, width]
 */
export async function ridgeSolve(
  { gram, cross, rows }: RefitStatistics,
  average: Float32Array,
  width: number,
  hidden: number,
): Promise<Float32Array> {
  if (rows === 0) return average;
  const solved = new Float64Array(hidden * width);
  await addon().ridgeSolve(gram, cross, Float64Array.from(average), width, hidden, ridgeOf(gram, width, rows), solved);
  return Float32Array.from(solved);
}

/** λ of {@link ridgeSolve} for a second moment [width, width] of so many rows. */
export function ridgeOf(gram: Float64Array, width: number, rows: number): number {
  let trace = 0;
  for (let i = 0; i < width; i++) trace += gram[i * width + i] as number;
  return (trace / width) * Math.max(1e-3, 10 * (width / rows) ** 2) + 1e-6;
}
