import type { Routing } from '../../graph/routing.ts';
import type { Value } from '../../graph/value.ts';
import { Tensor } from '../../tensor/tensor.ts';
import type { ExpertOutputs } from '../prune/enumerate.ts';
import type { LayerStream, Observed } from './layer-stream.ts';

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
  await eachRun(stream, experts, async (first, count, choose) => {
    const { sums } = await stream.observe({ sums: [experts, hidden] }, (observed, states) => {
      const { rows, routing } = choose(observed);
      observed.graph.accumulate('sum', rows, states.sums, { routing, gatePower: gated ? 1 : 0 });
    });
    for (let at = first * hidden; at < (first + count) * hidden; at++) {
      means[at] = (sums[at] as number) / stream.tokens;
    }
  });
  return means;
}

/**
 * Raw router logits and all experts' outputs without their gates of tokens at equal distances, the first one included.
 *
 * @param tokens at most so many
 */
export async function sampleOutputs(
  stream: LayerStream,
  { experts, hidden }: { experts: number; hidden: number },
  tokens: number,
): Promise<ExpertOutputs> {
  const distance = Math.ceil(stream.tokens / tokens);
  const count = Math.ceil(stream.tokens / distance);
  const logits = new Float32Array(count * experts);
  const outputs = new Float32Array(count * experts * hidden);
  await eachRun(stream, experts, async (first, runs, choose) => {
    let begin = 0;
    await stream.observe(
      {},
      (observed) => {
        observed.graph.output('logits', observed.values.routerLogits);
        observed.graph.output('rows', choose(observed).rows);
      },
      {
        each: (result, length) => {
          const [all, rows] = [result.logits as Float32Array, result.rows as Float32Array];
          for (let token = (distance - (begin % distance)) % distance; token < length; token += distance) {
            const at = (begin + token) / distance;
            logits.set(all.subarray(token * experts, (token + 1) * experts), at * experts);
            for (let expert = 0; expert < runs; expert++) {
              // Rows lie expert by expert, and every expert of the run has all tokens.
              const row = (expert * length + token) * hidden;
              outputs.set(rows.subarray(row, row + hidden), (at * experts + first + expert) * hidden);
            }
          }
          begin += length;
        },
      },
    );
  });
  return { logits, outputs };
}

/** The chosen experts of a run on every token of a batch. */
type Choose = (observed: Observed) => { rows: Value; routing: Routing };

/** Takes all experts, a few at a time: `visit` gets the first one, their count, and the graph's part that runs them. */
async function eachRun(
  stream: LayerStream,
  experts: number,
  visit: (first: number, count: number, choose: Choose) => Promise<void>,
): Promise<void> {
  for (let first = 0; first < experts; first += expertsAtOnce) {
    const topK = Math.min(expertsAtOnce, experts - first);
    // A choice by such a bias takes these experts for every token.
    const chosen = Float32Array.from({ length: experts }, (_, at) => (at >= first && at < first + topK ? 1e30 : 0));
    const bias = await Tensor.from(stream.device, chosen, { dtype: 'f32', shape: [experts] });
    try {
      await visit(first, topK, ({ graph, values, weights }) => {
        const routing = graph.route(values.routerLogits, { experts, topK, bias });
        const h = graph.linear(values.input, weights.experts.up, { activation: weights.spec.kind, routing });
        return { rows: graph.linear(h, weights.experts.down, { routing, gather: false }), routing };
      });
    } finally {
      bias.dispose();
    }
  }
}
