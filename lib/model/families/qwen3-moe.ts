/** Qwen3-MoE (transformers Qwen3MoeConfig): RMS norms over each head of q and k, head_dim free, dense layers among the sparse ones. */
import { boolean, caps, positiveInteger } from '../../checkpoint/config.ts';
import type { MoeSpec } from '../../moe/spec.ts';
import type { Family } from '../decoder-config.ts';
import {
  assemble,
  attentionConfig,
  blocks,
  commonConfig,
  decoderNames,
  mlpNames,
  routerSpec,
  slidingWindow,
  sparseLayers,
} from './shared.ts';

export const qwen3Moe: Family = {
  type: 'qwen3_moe',
  config(raw) {
    const common = commonConfig(raw, { tied: false, theta: 1e4, context: 32_768, epsilon: 1e-6 });
    const { hidden, kind, layerCount } = common;
    const moe: MoeSpec = {
      hidden,
      kind,
      width: positiveInteger(raw, 'moe_intermediate_size', { max: caps.width }),
      router: routerSpec(raw, boolean(raw, 'norm_topk_prob', { fallback: false })),
      sharedWidth: 0,
    };
    const bias = boolean(raw, 'attention_bias', { fallback: false });
    const attention = attentionConfig(raw, hidden, {
      inputBias: bias,
      outputBias: bias,
      queryKeyNorm: 'head',
      clip: undefined,
    });
    const denseWidth = () => positiveInteger(raw, 'intermediate_size', { max: caps.width });
    const layerBlocks = blocks(raw, moe, sparseLayers(raw, layerCount), denseWidth);
    const windows = new Array<number>(layerCount).fill(slidingWindow(raw, { hasSwitch: true }));
    return assemble('qwen3_moe', common, attention, layerBlocks, windows);
  },
  names: decoderNames((layer) => ({
    router: `${layer}.mlp.gate`,
    expert: (index) => mlpNames(`${layer}.mlp.experts.${index}`),
  })),
};
