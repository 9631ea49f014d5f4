/** A router's choice, back. */
import type { RouterSpec } from '../../moe/router-spec.ts';

/** What a router said of T tokens, K choices each, and ∂loss/∂gate of each row of its routing. */
export interface RouterValues {
  /** f32 [T, experts]. */
  readonly logits: Float32Array;
  /** i32 [T, K]. */
  readonly ids: Int32Array;
  /** f32 [T, K]. */
  readonly gates: Float32Array;
  /** i32 [T, K]: the row of each choice. */
  readonly rowOf: Int32Array;
  /** f32 [T·K]. */
  readonly gateSlopes: Float32Array;
}

/** ∂loss/∂logits, f32 [T, experts], through gates that are softmax scores, plain or over the sum of those chosen. The choice itself has none. */
export function routerGradient(
  { experts, topK, renormalize }: Pick<RouterSpec, 'experts' | 'topK' | 'renormalize'>,
  { logits, ids, gates, rowOf, gateSlopes }: RouterValues,
): Float32Array {
  const result = new Float32Array(logits.length);
  const slopes = new Float64Array(experts);
  for (let begin = 0, first = 0; begin < logits.length; begin += experts, first += topK) {
    const scores = softmax(logits.subarray(begin, begin + experts));
    slopes.fill(0);
    let [chosen, mean] = [0, 0];
    for (let choice = first; choice < first + topK; choice++) {
      const [id, slope] = [ids[choice] as number, gateSlopes[rowOf[choice] as number] as number];
      slopes[id] = slope;
      chosen += scores[id] as number;
      mean += (gates[choice] as number) * slope;
    }
    if (renormalize) {
      // Of gates over their sum: the scores' slopes, whose own mean is then 0.
      for (let choice = first; choice < first + topK; choice++) {
        const id = ids[choice] as number;
        slopes[id] = ((slopes[id] as number) - mean) / chosen;
      }
      mean = 0;
    }
    for (let expert = 0; expert < experts; expert++) {
      result[begin + expert] = (scores[expert] as number) * ((slopes[expert] as number) - mean);
    }
  }
  return result;
}

function softmax(logits: Float32Array): Float64Array {
  const highest = logits.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  const scores = Float64Array.from(logits, (value) => Math.exp(value - highest));
  const total = scores.reduce((sum, value) => sum + value, 0);
  return scores.map((value) => value / total);
}
