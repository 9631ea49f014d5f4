/** The matrices of one expert in f32, row-major: gate and up [width, hidden] (gate absent in two-matrix experts), down [hidden, width]. */
export interface ExpertMatrices {
  readonly width: number;
  readonly hidden: number;
  readonly gate: Float32Array | undefined;
  readonly up: Float32Array;
  readonly down: Float32Array;
}

/** [rows, columns] to [columns, rows]. */
export function transpose(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(matrix.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      result[column * rows + row] = matrix[row * columns + column] as number;
    }
  }
  return result;
}
