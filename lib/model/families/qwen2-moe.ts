/**
 * Qwen1.5/2-MoE (transformers Qwen2MoeConfig): q, k, v with biases, a shared expert under a sigmoid gate, dense layers among the
 * sparse ones.
 */
import {
  boolean,
  type Config,
  caps,
  nonNegativeInteger,
  optional,
  positiveInteger,
  strings,
} from '../../checkpoint/config.ts';
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
  unsupported,
} from './shared.ts';

export const qwen2Moe: Family = {
  type: 'qwen2_moe',
  config(raw) {
    const common = commonConfig(raw, { tied: false, theta: 1e4, context: 32_768, epsilon: 1e-6 });
    const { hidden, kind, layerCount } = common;
    const moe: MoeSpec = {
      hidden,
      kind,
      width: positiveInteger(raw, 'moe_intermediate_size', { max: caps.width }),
      router: routerSpec(raw, boolean(raw, 'norm_topk_prob', { fallback: false })),
      sharedWidth: positiveInteger(raw, 'shared_expert_intermediate_size', { max: caps.width }),
    };
    const attention = attentionConfig(raw, hidden, {
      inputBias: boolean(raw, 'qkv_bias', { fallback: true }),
      outputBias: false,
      queryKeyNorm: 'none',
      clip: undefined,
    });
    const denseWidth = () => positiveInteger(raw, 'intermediate_size', { max: caps.width });
    const layerBlocks = blocks(raw, moe, sparseLayers(raw, layerCount), denseWidth);
    const window = slidingWindow(raw, { hasSwitch: true });
    const windows =
      window === 0
        ? new Array<number>(layerCount).fill(0)
        : slidingLayers(raw, layerCount).map((slides) => (slides ? window : 0));
    return assemble('qwen2_moe', common, attention, layerBlocks, windows);
  },
  names: decoderNames((layer) => ({
    router: `${layer}.mlp.gate`,
    expert: (index) => mlpNames(`${layer}.mlp.experts.${index}`),
    shared: mlpNames(`${layer}.mlp.shared_expert`),
    sharedGate: `${layer}.mlp.shared_expert_gate`,
  })),
};

/** Which layers have the window. Without `layer_types`: every other one of the first `max_window_layers`, as in transformers 5. */
function slidingLayers(raw: Config, layerCount: number): boolean[] {
  const types = optional(raw, 'layer_types', (config, key) => strings(config, key, { length: layerCount }));
  if (!types) {
    const end = nonNegativeInteger(raw, 'max_window_layers', { max: caps.layers, fallback: 28 });
    return Array.from({ length: layerCount }, (_, index) => index % 2 === 0 && index < end);
  }
  return types.map((type) => {
    if (type === 'sliding_attention') return true;
    if (type === 'full_attention') return false;
    throw unsupported('layer_types', 'full_attention or sliding_attention', type);
  });
}
