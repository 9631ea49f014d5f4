// What the writers of other forms read of a model folder: the sizes of a qwen3_moe or olmoe decoder, and the names of its tensors.
import { Checkpoint } from '../../lib/index.ts';

/** `use` gets the sizes and a function that reads a tensor by name (without `.weight`) as f32; what it returns is returned. */
export async function withDecoder(folder, use) {
  const checkpoint = await Checkpoint.open(folder);
  try {
    return await use(sizesOf(checkpoint.config), (name) => checkpoint.readF32(`${name}.weight`));
  } finally {
    checkpoint.close();
  }
}

function sizesOf(config) {
  const { model_type: type } = config;
  if (type !== 'qwen3_moe' && type !== 'olmoe') throw new Error(`${type}: peers get qwen3_moe and olmoe`);
  const heads = config.num_attention_heads;
  return {
    type,
    hidden: config.hidden_size,
    layers: config.num_hidden_layers,
    vocabulary: config.vocab_size,
    context: config.max_position_embeddings,
    heads,
    kvHeads: config.num_key_value_heads,
    headDim: config.head_dim ?? config.hidden_size / heads,
    /** Of q and k: 'head' each on its own, 'vector' the whole. */
    norm: type === 'qwen3_moe' ? 'head' : 'vector',
    experts: config.num_local_experts ?? config.num_experts,
    topK: config.num_experts_per_tok,
    width: type === 'qwen3_moe' ? config.moe_intermediate_size : config.intermediate_size,
    renormalize: config.norm_topk_prob,
    epsilon: config.rms_norm_eps,
    theta: config.rope_parameters?.rope_theta ?? config.rope_theta ?? 1e4,
    tied: config.tie_word_embeddings,
    eos: config.eos_token_id,
  };
}

export const embedding = 'model.embed_tokens';
export const finalNorm = 'model.norm';
export const head = 'lm_head';

/** Names of the tensors of a layer, without `.weight`. */
export function layerNames(layer) {
  const prefix = `model.layers.${layer}`;
  return {
    attentionNorm: `${prefix}.input_layernorm`,
    expertNorm: `${prefix}.post_attention_layernorm`,
    query: `${prefix}.self_attn.q_proj`,
    key: `${prefix}.self_attn.k_proj`,
    value: `${prefix}.self_attn.v_proj`,
    output: `${prefix}.self_attn.o_proj`,
    queryNorm: `${prefix}.self_attn.q_norm`,
    keyNorm: `${prefix}.self_attn.k_norm`,
    router: `${prefix}.mlp.gate`,
    /** `matrix`: gate, up or down. */
    expert: (expert, matrix) => `${prefix}.mlp.experts.${expert}.${matrix}_proj`,
  };
}
