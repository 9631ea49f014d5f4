/**
 * Mixtral (transformers MixtralConfig): softmax router whose chosen gates always add up to 1, experts w1 (gate), w3 (up), w2
 * (down), optional sliding window.
 */
import { caps, positiveInteger } from '../../checkpoint/config.ts';
import type { MoeSpec } from '../../moe/spec.ts';
import type { Family } from '../decoder-config.ts';
import { assemble, attentionConfig, blocks, commonConfig, decoderNames, routerSpec, slidingWindow } from './shared.ts';

export const mixtral: Family = {
  type: 'mixtral',
  config(raw) {
    const common = commonConfig(raw, { tied: false, theta: 1e6, context: 131_072, epsilon: 1e-5 });
    const width = positiveInteger(raw, 'intermediate_size', { max: caps.width });
    const { hidden, kind, layerCount } = common;
    const moe: MoeSpec = { hidden, width, kind, router: routerSpec(raw, true), sharedWidth: 0 };
    const attention = attentionConfig(raw, hidden, {
      inputBias: false,
      outputBias: false,
      queryKeyNorm: 'none',
      clip: undefined,
    });
    const sparse = new Array<boolean>(layerCount).fill(true);
    const layerBlocks = blocks(raw, moe, sparse, () => width);
    const windows = new Array<number>(layerCount).fill(slidingWindow(raw, { hasSwitch: false }));
    return assemble('mixtral', common, attention, layerBlocks, windows);
  },
  names: decoderNames((layer) => ({
    router: `${layer}.block_sparse_moe.gate`,
    expert(index) {
      const prefix = `${layer}.block_sparse_moe.experts.${index}`;
      return { gate: `${prefix}.w1`, up: `${prefix}.w3`, down: `${prefix}.w2` };
    },
  })),
};
