/** gate and up read the same input: one pair of factors serves both. */
import type { Matrix } from '../experts.ts';

/** The rank of one pair for gate and up together that holds as many numbers as two pairs of rank r. */
export function jointRank(rank: number, width: number, hidden: number): number {
  return Math.floor((2 * rank * (width + hidden)) / (2 * width + hidden));
}

/** A matrix of gate rows, then up rows, as two that share their A. */
export function splitRows(joint: Matrix, width: number): [Matrix, Matrix] {
  const { columns, factors, kept, sparse } = joint;
  const half = (at: 0 | 1): Matrix => {
    const inside = kept?.index.reduce((count, row) => count + (row < width ? 1 : 0), 0) ?? 0;
    const [from, to] = at === 0 ? [0, inside] : [inside, kept?.index.length ?? 0];
    const stride = sparse && Math.ceil(columns / sparse.m) * sparse.n * width;
    return {
      rows: width,
      columns,
      ...(factors && {
        factors: {
          rank: factors.rank,
          a: factors.a,
          b: factors.b.slice(at * width * factors.rank, (at + 1) * width * factors.rank),
        },
      }),
      ...(kept && {
        kept: {
          index: kept.index.slice(from, to).map((row) => row - at * width),
          values: kept.values.slice(from * columns, to * columns),
        },
      }),
      ...(sparse &&
        stride !== undefined && {
          sparse: {
            ...sparse,
            values: sparse.values.slice(at * stride, (at + 1) * stride),
            index: sparse.index.slice(at * stride, (at + 1) * stride),
          },
        }),
    };
  };
  return [half(0), half(1)];
}
