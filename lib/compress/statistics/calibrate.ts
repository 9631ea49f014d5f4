import { MoeError } from '../../errors.ts';
import type { LayerStream } from './layer-stream.ts';

/** What one pass over the calibration windows says about the experts of one MoE layer; all f64, sums over the rows of each expert. */
export interface LayerStatistics {
  readonly layer: number;
  readonly experts: number;
  /** [experts]: how often each was chosen. */
  readonly counts: Float64Array;
  /** [experts]: Σ g. */
  readonly gates: Float64Array;
  /** [experts]: Σ ‖f‖₂, f the expert's output. */
  readonly norms: Float64Array;
  /** [experts]: Σ g·‖f‖₂. */
  readonly gatedNorms: Float64Array;
  /** The same two with the router's plain scores as gates, before any renormalization. */
  readonly plainGates: Float64Array;
  readonly plainGatedNorms: Float64Array;
  /** [experts]: Σ ‖f‖₂². */
  readonly squares: Float64Array;
  /** [experts, experts]: ZᵀZ of the raw router logits Z. */
  readonly gram: Float64Array;
}

/**
 * Runs the original model over the windows and collects the light statistics of all its MoE layers, in order. Rejects with
 * CHECKPOINT_MALFORMED where a sum is not finite.
 */
export async function calibrate(stream: LayerStream, onLayer: (done: number) => void): Promise<LayerStatistics[]> {
  const statistics: LayerStatistics[] = [];
  await stream.embed();
  for (const [layer, { block }] of stream.config.layers.entries()) {
    onLayer(layer);
    await stream.enter(layer);
    if (block.kind === 'moe') {
      const { hidden } = block.moe;
      const { router } = block.moe;
      const { experts } = router;
      const sums = await stream.observe(
        {
          counts: [experts],
          gates: [experts],
          norms: [experts],
          gatedNorms: [experts],
          plainGates: [experts],
          plainGatedNorms: [experts],
          squares: [experts, hidden],
          gram: [experts, experts],
        },
        ({ graph, values: { routing, routerLogits, rows } }, states) => {
          graph.accumulate('count', routing.ids, states.counts);
          // Rows of ones have norm √hidden, so these sum up to the gates.
          graph.accumulate('norm_sum', graph.clamp(rows, 1, 1), states.gates, { routing, gatePower: 1 });
          graph.accumulate('norm_sum', rows, states.norms, { routing });
          graph.accumulate('norm_sum', rows, states.gatedNorms, { routing, gatePower: 1 });
          const plain = graph.route(routerLogits, { ...router, renormalize: false, scale: 1 });
          graph.accumulate('norm_sum', graph.clamp(rows, 1, 1), states.plainGates, { routing: plain, gatePower: 1 });
          graph.accumulate('norm_sum', rows, states.plainGatedNorms, { routing: plain, gatePower: 1 });
          graph.accumulate('sum', graph.multiply(rows, rows), states.squares, { routing });
          graph.accumulate('gram', routerLogits, states.gram);
        },
        { leave: true },
      );
      if (Object.values(sums).some((values) => !values.every(Number.isFinite))) {
        throw new MoeError('CHECKPOINT_MALFORMED', {
          argument: `layer ${layer}`,
          expected: 'weights under which all sums over the calibration windows are finite',
          received: 'NaN or infinity',
        });
      }
      const squares = Float64Array.from({ length: experts }, (_, expert) =>
        sums.squares.subarray(expert * hidden, (expert + 1) * hidden).reduce((sum, value) => sum + value, 0),
      );
      const ofOnes = (norms: Float64Array): Float64Array => norms.map((sum) => sum / Math.sqrt(hidden));
      statistics.push({
        ...sums,
        layer,
        experts,
        squares,
        gates: ofOnes(sums.gates),
        plainGates: ofOnes(sums.plainGates),
      });
    } else {
      await stream.leave();
    }
  }
  onLayer(stream.config.layers.length);
  return statistics;
}
