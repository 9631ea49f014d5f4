/** The expert bank of a layer from the tensors of a checkpoint. */
import { type ExpertBank, expertBank } from '../weight/bank.ts';
import type { WeightFormat } from '../weight/format.ts';
import type { WeightLoader } from './loader.ts';
import { type MoeNames, type MoeSpec, slotsOf } from './spec.ts';

/**
 * gate|up and down of every slot, streamed from the mapped file. A merged layer has a slot for each group and `groupOf`.
 * `format` absent: as stored. The loader owns the weights.
 */
export async function loadBank(
  loader: WeightLoader,
  spec: MoeSpec,
  names: MoeNames,
  format: WeightFormat | undefined,
): Promise<ExpertBank> {
  const slots = Array.from({ length: slotsOf(spec) }, (_, slot) => names.expert(slot));
  const { up, down } = await loader.mlps(slots, spec.hidden, spec.width, format);
  return expertBank({ kind: spec.kind, up, down, groupOf: spec.merged?.groupOf });
}
