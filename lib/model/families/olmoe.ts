/** OLMoE (transformers OlmoeConfig): RMS norms over the whole of q and k, optional clamp of q, k, v, gates that need not add up to 1. */
import { boolean, caps, number, optional, positiveInteger } from '../../checkpoint/config.ts';
import type { MoeSpec } from '../../moe/spec.ts';
import type { Family } from '../decoder-config.ts';
import { assemble, attentionConfig, blocks, commonConfig, decoderNames, mlpNames, routerSpec } from './shared.ts';

export const olmoe: Family = {
  type: 'olmoe',
  config(raw) {
    const common = commonConfig(raw, { tied: false, theta: 1e4, context: 4096, epsilon: 1e-5 });
    const { hidden, kind, layerCount } = common;
    // intermediate_size is the width of one expert.
    const width = positiveInteger(raw, 'intermediate_size', { max: caps.width });
    const router = routerSpec(raw, boolean(raw, 'norm_topk_prob', { fallback: false }));
    const moe: MoeSpec = { hidden, width, kind, router, sharedWidth: 0 };
    const bias = boolean(raw, 'attention_bias', { fallback: false });
    const attention = attentionConfig(raw, hidden, {
      inputBias: bias,
      outputBias: bias,
      queryKeyNorm: 'vector',
      clip: optional(raw, 'clip_qkv', (config, key) => number(config, key, { min: 0 })),
    });
    const sparse = new Array<boolean>(layerCount).fill(true);
    return assemble(
      'olmoe',
      common,
      attention,
      blocks(raw, moe, sparse, () => width),
      new Array<number>(layerCount).fill(0),
    );
  },
  names: decoderNames((layer) => ({
    router: `${layer}.mlp.gate`,
    expert: (index) => mlpNames(`${layer}.mlp.experts.${index}`),
  })),
};
