/** The loss of calibration windows whose hidden states have come to the end of a model. */
import { Graph } from '../../graph/graph.ts';
import type { DecoderConfig, DecoderNames } from '../../model/decoder-config.ts';
import type { WeightLoader } from '../../moe/loader.ts';
import type { Batch } from './batches.ts';

/**
 * Mean negative log-likelihood of each branch, nats a token. The first token of a window is not scored.
 *
 * @param loader keeps the final norm and the head until it is disposed
 */
export async function branchLosses(
  loader: WeightLoader,
  config: DecoderConfig,
  names: DecoderNames,
  batches: readonly Batch[],
  signal: AbortSignal | undefined,
): Promise<Map<number, number>> {
  const norm = await loader.tensor(`${names.finalNorm}.weight`);
  const head = await loader.linear(config.tied ? names.embedding : names.head, config.vocabulary, config.hidden);
  const graph = new Graph(loader.device);
  const hidden = graph.input('hidden', 'f32', ['tokens', config.hidden]);
  const logits = graph.linear(graph.norm(hidden, norm, { epsilon: config.epsilon }), head);
  const { logProbability } = graph.score(logits, { ids: graph.input('targets', 'i32', ['tokens']) });
  graph.output('result', logProbability);
  const sums = new Map<number, { sum: number; tokens: number }>();
  const program = graph.compile({ tokens: Math.max(...batches.map(({ ids }) => ids.length)) });
  try {
    for (const batch of batches) {
      const targets = nextIds(batch);
      const result = new Float32Array(targets.length);
      await program.run({ hidden: batch.hidden, targets }, { into: { result }, signal });
      const total = sums.get(batch.branch) ?? { sum: 0, tokens: 0 };
      targets.forEach((target, at) => {
        if (target < 0) return;
        total.sum -= result[at] as number;
        total.tokens++;
      });
      sums.set(batch.branch, total);
    }
  } finally {
    program.dispose();
  }
  return new Map(Array.from(sums, ([branch, { sum, tokens }]) => [branch, sum / tokens]));
}

/** The token that follows each one in its window; −1 for the last. */
function nextIds({ ids, places: { lengths } }: Batch): Int32Array {
  const next = new Int32Array(ids.length).fill(-1);
  let begin = 0;
  for (const length of lengths) {
    next.set(ids.subarray(begin + 1, begin + length), begin);
    begin += length;
  }
  return next;
}
