import type { Device } from '../device/device.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { LayerStream } from './layer-stream.ts';

/** What one pass over the calibration windows says about the router of one MoE layer. */
export interface RouterStatistics {
  readonly layer: number;
  readonly experts: number;
  /** f64 [experts]: how often each expert was chosen. */
  readonly counts: Float64Array;
  /** f64 [experts, experts]: ZᵀZ of the raw router logits Z. */
  readonly gram: Float64Array;
}

/** Runs the original model over the windows and collects the statistics of all its MoE layers, in order. */
export async function observeRouters(
  device: Device,
  stream: LayerStream,
  onLayer: (done: number) => void,
): Promise<RouterStatistics[]> {
  const statistics: RouterStatistics[] = [];
  await stream.embed();
  for (const [layer, { block }] of stream.config.layers.entries()) {
    onLayer(layer);
    if (block.kind === 'dense') {
      await stream.advance(layer);
      continue;
    }
    const { experts } = block.moe.router;
    const counts = await Tensor.zeros(device, 'f64', [experts]);
    const gram = await Tensor.zeros(device, 'f64', [experts, experts]);
    await stream.advance(
      layer,
      (graph, { routing, routerLogits }) => {
        graph.accumulate('count', routing.ids, graph.state('counts', 'f64', [experts]));
        graph.accumulate('gram', routerLogits, graph.state('gram', 'f64', [experts, experts]));
      },
      { counts, gram },
    );
    statistics.push({ layer, experts, counts: await counts.read(), gram: await gram.read() });
    counts.dispose();
    gram.dispose();
  }
  onLayer(stream.config.layers.length);
  return statistics;
}
