/**
 * Parameters and operations as publications on compressed experts count them: values, not bytes; scales, offsets and indices do not
 * count, and a value that pruning made zero does not either.
 */
import { invalid, requireInteger, requireObject } from '../../arguments.ts';

/** A matrix [rows, columns] in the form B·A + S: factors of a rank, and a share of its own values beside them. */
export interface CountedMatrix {
  readonly rows: number;
  readonly columns: number;
  /** Of the factors A [rank, columns] and B [rows, rank]. Default 0: there are none. */
  readonly rank?: number | undefined;
  /** Share of the rows · columns values that stay, 0 … 1. Default 1. */
  readonly kept?: number | undefined;
}

/** A number of experts of one form. */
export interface CountedExperts {
  readonly count: number;
  readonly matrices: readonly CountedMatrix[];
}

/** Values of one matrix: rank · (rows + columns) + kept · rows · columns. Throws INVALID_ARGUMENT. */
export function matrixParameters(matrix: CountedMatrix): number {
  const { rows, columns, rank = 0, kept = 1 } = requireObject(matrix, 'matrix');
  requireInteger(rows, 'matrix.rows');
  requireInteger(columns, 'matrix.columns');
  requireInteger(rank, 'matrix.rank', 0);
  if (!(kept >= 0 && kept <= 1)) throw invalid('matrix.kept', 'a share, 0 … 1', kept);
  return rank * (rows + columns) + kept * rows * columns;
}

/** Values of a model: those outside of the experts, and all experts'. Throws INVALID_ARGUMENT. */
export function modelParameters(others: number, experts: readonly CountedExperts[]): number {
  requireInteger(others, 'others', 0);
  return experts.reduce((sum, { count, matrices }, index) => {
    requireInteger(count, `experts[${index}].count`, 0);
    return sum + count * matrices.reduce((own, matrix) => own + matrixParameters(matrix), 0);
  }, others);
}

/** One MoE layer for {@link layerOperations}. */
export interface CountedLayer {
  readonly hidden: number;
  /** Rows of the router. */
  readonly experts: number;
  /** Experts a token. */
  readonly topK: number;
  /** Of one expert. */
  readonly matrices: readonly CountedMatrix[];
}

/**
 * Operations (a multiplication and an addition are two) of `tokens` tokens: 2·topK·tokens·Σ values of an expert's matrices, and
 * 2·tokens·hidden·experts of the router. Throws INVALID_ARGUMENT.
 */
export function layerOperations({ hidden, experts, topK, matrices }: CountedLayer, tokens: number): number {
  requireInteger(tokens, 'tokens', 0);
  const values = matrices.reduce((sum, matrix) => sum + matrixParameters(matrix), 0);
  return 2 * tokens * (topK * values + hidden * experts);
}
