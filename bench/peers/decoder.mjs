// What the writers of other forms read of a model folder: a qwen3_moe or olmoe decoder, all of whose layers have experts.
import { Checkpoint } from '../../lib/index.ts';
import { familyOf } from '../../lib/model/family.ts';

/** `use` gets the decoder and a function that reads a tensor by name (without `.weight`) as f32; what it returns is returned. */
export async function withDecoder(folder, use) {
  const checkpoint = await Checkpoint.open(folder);
  try {
    return await use(decoderOf(checkpoint.config), (name) => checkpoint.readF32(`${name}.weight`));
  } finally {
    checkpoint.close();
  }
}

/** The configuration, with what all its layers have in common, and the names of the tensors. */
function decoderOf(raw) {
  const { type, config, names } = familyOf(raw);
  if (type !== 'qwen3_moe' && type !== 'olmoe') throw new Error(`${type}: peers get qwen3_moe and olmoe`);
  const { layers, attention, rope, eosIds, hidden, vocabulary, context, epsilon, tied } = config(raw);
  if (layers.some(({ block }) => block.kind !== 'moe')) throw new Error(`${type}: peers get experts in every layer`);
  const { width, router } = layers[0].block.moe;
  const sizes = { hidden, vocabulary, context, epsilon, tied, width, ...attention, ...router };
  return { type, names, layers: layers.length, theta: rope.theta, eos: eosIds[0], ...sizes };
}
