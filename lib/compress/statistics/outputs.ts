import { Tensor } from '../../tensor/tensor.ts';
import type { LayerStream } from './layer-stream.ts';

/** Experts that run on every token at once: a batch is then at most this many times as long. */
const expertsAtOnce = 8;

/**
 * The mean output of every expert of the entered layer over all tokens, whether or not they were routed to it.
 *
 * @param gated whether outputs count times the full softmax gate (REAM) or alike (HC-SMoE)
 * @returns f64 [experts, hidden]
 */
export async function meanOutputs(
  stream: LayerStream,
  { experts, hidden }: { experts: number; hidden: number },
  gated: boolean,
): Promise<Float64Array> {
  const means = new Float64Array(experts * hidden);
  for (let first = 0; first < experts; first += expertsAtOnce) {
    const topK = Math.min(expertsAtOnce, experts - first);
    // A choice by such a bias takes these experts for every token.
    const chosen = Float32Array.from({ length: experts }, (_, at) => (at >= first && at < first + topK ? 1e30 : 0));
    const bias = await Tensor.from(stream.device, chosen, { dtype: 'f32', shape: [experts] });
    try {
      const { sums } = await stream.observe({ sums: [experts, hidden] }, ({ graph, values, weights }, states) => {
        const routing = graph.route(values.routerLogits, { experts, topK, bias });
        const { kind } = weights.spec;
        const h = graph.linear(values.input, weights.experts.up, { activation: kind, routing });
        const rows = graph.linear(h, weights.experts.down, { routing, gather: false });
        graph.accumulate('sum', rows, states.sums, { routing, gatePower: gated ? 1 : 0 });
      });
      for (let at = first * hidden; at < (first + topK) * hidden; at++) {
        means[at] = (sums[at] as number) / stream.tokens;
      }
    } finally {
      bias.dispose();
    }
  }
  return means;
}
