import { MemoryTensors, type StoredTensor } from '../../checkpoint/tensor-source.ts';
import { loadBank } from '../../moe/bank.ts';
import { WeightLoader } from '../../moe/loader.ts';
import type { MoeNames, MoeSpec } from '../../moe/spec.ts';
import { describeLayer, encodeExperts, specOf } from '../encode.ts';
import type { ExpertLayer } from '../experts.ts';
import type { LayerStream } from './layer-stream.ts';

/** Leaves the entered layer with the experts of `layer`, as a reader of a folder that stores it would have them. */
export async function leaveWith(
  stream: LayerStream,
  layer: ExpertLayer,
  original: MoeSpec,
  names: MoeNames,
): Promise<void> {
  const spec = specOf(original, describeLayer(layer));
  const tensors: StoredTensor[] = [];
  for await (const tensor of encodeExperts(layer, spec, names)) tensors.push(tensor);
  const loader = new WeightLoader(stream.device, new MemoryTensors(tensors));
  try {
    const experts = await loadBank(loader, spec, names, undefined);
    const { router: rows } = layer;
    const router = rows && (await loader.matrix(rows, layer.slots.length, layer.hidden));
    await stream.leave((weights) => ({ ...weights, spec, experts, ...(router && { router }) }));
  } finally {
    loader.dispose();
  }
}
