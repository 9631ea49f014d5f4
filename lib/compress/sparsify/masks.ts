/** n:m masks without error feedback: of every m inputs in a row the n with the highest scores stay; ties to the lower index. */

export interface Pattern {
  readonly n: number;
  readonly m: number;
}

/** Scores |w|. weight f32 [rows, columns]; u8 alike, 1 where a weight stays. */
export function magnitudeMask(weight: Float32Array, rows: number, columns: number, pattern: Pattern): Uint8Array {
  return maskOf(Float64Array.from(weight, Math.abs), rows, columns, pattern);
}

/**
 * Scores |w|·‖x_j‖ (Wanda, section 3).
 *
 * @param squares [columns]: Σ x_j² of each input, at any scale
 */
export function wandaMask(
  weight: Float32Array,
  squares: ArrayLike<number>,
  rows: number,
  columns: number,
  pattern: Pattern,
): Uint8Array {
  const norms = Float64Array.from(squares, Math.sqrt);
  const scores = Float64Array.from(weight, (value, at) => Math.abs(value) * (norms[at % columns] as number));
  return maskOf(scores, rows, columns, pattern);
}

function maskOf(scores: Float64Array, rows: number, columns: number, { n, m }: Pattern): Uint8Array {
  const mask = new Uint8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let first = 0; first < columns; first += m) {
      const places = Array.from({ length: Math.min(m, columns - first) }, (_, at) => row * columns + first + at);
      places.sort((a, b) => (scores[b] as number) - (scores[a] as number) || a - b);
      for (const at of places.slice(0, n)) mask[at] = 1;
    }
  }
  return mask;
}
