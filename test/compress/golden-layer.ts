/** A layer of other people's tensors, run the plain way. */
import type { HiddenPair } from '../../lib/compress/align/activations.ts';

/** a·bᵀ for a [rows, depth] and b [columns, depth]. */
export function productsOf(a: ArrayLike<number>, b: ArrayLike<number>, depth: number): Float64Array {
  const [rows, columns] = [a.length / depth, b.length / depth];
  const products = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = 0;
      for (let i = 0; i < depth; i++) sum += (a[row * depth + i] as number) * (b[column * depth + i] as number);
      products[row * columns + column] = sum;
    }
  }
  return products;
}

/** [rows, columns] to [columns, rows]. */
export function transposed(matrix: ArrayLike<number>, columns: number): Float64Array {
  const rows = matrix.length / columns;
  return Float64Array.from(
    { length: matrix.length },
    (_, at) => matrix[(at % rows) * columns + Math.floor(at / rows)] as number,
  );
}

/** The chosen experts of each token, best first. */
export function choicesOf(logits: Float64Array, experts: number, topK: number): number[][] {
  return Array.from({ length: logits.length / experts }, (_, token) => {
    const row = logits.subarray(token * experts, (token + 1) * experts);
    return [...row.keys()].sort((a, b) => (row[b] as number) - (row[a] as number)).slice(0, topK);
  });
}

/** How often each expert is among the first `topK`, over all choices. */
export function usageOf(logits: Float64Array, experts: number, topK: number): Float64Array {
  const chosen = choicesOf(logits, experts, topK).flat();
  const usage = new Float64Array(experts);
  for (const expert of chosen) usage[expert] = (usage[expert] as number) + 1 / chosen.length;
  return usage;
}

/** Softmax over each row. */
export function softmaxOf(logits: Float64Array, experts: number): Float64Array {
  const result = new Float64Array(logits.length);
  for (let begin = 0; begin < logits.length; begin += experts) {
    const row = logits.subarray(begin, begin + experts);
    const largest = Math.max(...row);
    const powers = row.map((logit) => Math.exp(logit - largest));
    const total = powers.reduce((sum, power) => sum + power, 0);
    result.set(
      powers.map((power) => power / total),
      begin,
    );
  }
  return result;
}

export interface PlainExpert {
  readonly gate?: Float64Array;
  readonly up: Float64Array;
  readonly down: Float64Array;
}

/** Hidden rows [tokens, width]: SwiGLU with a gate, ReLU without. */
export function hiddenRows({ gate, up }: PlainExpert, x: Float64Array, size: number): Float64Array {
  const rows = productsOf(x, up, size);
  if (!gate) return rows.map((value) => Math.max(0, value));
  const gates = productsOf(x, gate, size);
  return rows.map((value, at) => (value * (gates[at] as number)) / (1 + Math.exp(-(gates[at] as number))));
}

/** Outputs [tokens, hidden]. */
export function expertRows(expert: PlainExpert, x: Float64Array, size: number): Float64Array {
  const width = expert.up.length / size;
  return productsOf(hiddenRows(expert, x, size), expert.down, width);
}

/** Means of the columns. */
export function columnMeans(rows: Float64Array, columns: number): Float64Array {
  const means = new Float64Array(columns);
  const count = rows.length / columns;
  rows.forEach((value, at) => {
    means[at % columns] = (means[at % columns] as number) + value / count;
  });
  return means;
}

/** The sums that `hiddenCorrelation` takes, of rows [tokens, width]. */
export function pairOf(a: Float64Array, b: Float64Array, width: number): HiddenPair {
  const rows = a.length / width;
  const total = (values: Float64Array): Float64Array => columnMeans(values, width).map((mean) => mean * rows);
  return {
    rows,
    sums: total(a),
    squares: total(a.map((value) => value * value)),
    otherSums: total(b),
    otherSquares: total(b.map((value) => value * value)),
    cross: productsOf(transposed(a, width), transposed(b, width), rows),
  };
}
