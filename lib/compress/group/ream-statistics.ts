import type { MoeSpec } from '../../moe/spec.ts';
import type { LayerStream } from '../statistics/layer-stream.ts';
import { meanOutputs } from '../statistics/outputs.ts';
import type { ReamStatistics } from './ream.ts';

/**
 * What REAM groups the experts of the entered layer by, on the inputs that the layers before it give. The saliency is that of the published
 * code, which multiplies outputs by their gate before REAP's criterion does so again: the mean of g²·‖f‖ over an expert's tokens, g the
 * router's score before it is renormalized. Means are over all tokens; there they are means of the means of batches.
 */
export async function reamStatistics(
  stream: LayerStream,
  { router, hidden }: Pick<MoeSpec, 'router' | 'hidden'>,
): Promise<ReamStatistics> {
  const { experts } = router;
  const shapes = { counts: [experts], norms: [experts], logitGram: [experts, experts] };
  const { counts, norms, logitGram } = await stream.observe(shapes, ({ graph, values }, states) => {
    const plain = graph.route(values.routerLogits, { ...router, renormalize: false, scale: 1 });
    graph.accumulate('count', plain.ids, states.counts);
    graph.accumulate('norm_sum', values.rows, states.norms, { routing: plain, gatePower: 2 });
    graph.accumulate('gram', values.routerLogits, states.logitGram);
  });
  const outputs = await meanOutputs(stream, { experts, hidden }, true);
  return {
    saliency: norms.map((sum, expert) => ((counts[expert] as number) > 0 ? sum / (counts[expert] as number) : 0)),
    outputGram: gramOf(outputs, experts),
    logitGram,
  };
}

/** V·Vᵀ of V [count, columns]. */
function gramOf(rows: Float64Array, count: number): Float64Array {
  const columns = rows.length / count;
  return Float64Array.from({ length: count * count }, (_, at) => {
    const [a, b] = [Math.floor(at / count) * columns, (at % count) * columns];
    let sum = 0;
    for (let column = 0; column < columns; column++) sum += (rows[a + column] as number) * (rows[b + column] as number);
    return sum;
  });
}
