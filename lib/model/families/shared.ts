/** What the config.json of several families has in common. */

import { type CompressedLayer, compressedSection } from '../../checkpoint/compressed.ts';
import {
  boolean,
  type Config,
  caps,
  integers,
  nonNegativeInteger,
  number,
  optional,
  positiveInteger,
  ropeOf,
  string,
} from '../../checkpoint/config.ts';
import { MoeError } from '../../errors.ts';
import type { RouterSpec } from '../../moe/router-spec.ts';
import type { MoeSpec } from '../../moe/spec.ts';
import type { ExpertKind } from '../../weight/bank.ts';
import type {
  AttentionConfig,
  BlockConfig,
  DecoderConfig,
  DecoderNames,
  LayerNames,
  RopeConfig,
} from '../decoder-config.ts';

/** The keys that every family spells alike. */
export interface CommonConfig {
  readonly vocabulary: number;
  readonly hidden: number;
  readonly layerCount: number;
  readonly context: number;
  readonly epsilon: number;
  readonly rope: RopeConfig;
  readonly kind: ExpertKind;
  readonly tied: boolean;
  readonly eosIds: readonly number[];
}

export function commonConfig(
  raw: Config,
  defaults: { tied: boolean; theta: number; context: number; epsilon: number },
): CommonConfig {
  const vocabulary = positiveInteger(raw, 'vocab_size', { max: caps.vocabulary });
  const rope = ropeOf(raw, { theta: defaults.theta });
  if (rope.partialRotaryFactor !== 1) {
    throw unsupported('partial_rotary_factor', '1 in this family', String(rope.partialRotaryFactor));
  }
  return {
    vocabulary,
    hidden: positiveInteger(raw, 'hidden_size', { max: caps.width }),
    layerCount: positiveInteger(raw, 'num_hidden_layers', { max: caps.layers }),
    context: positiveInteger(raw, 'max_position_embeddings', { max: caps.positions, fallback: defaults.context }),
    epsilon: number(raw, 'rms_norm_eps', { min: 0, max: 1, fallback: defaults.epsilon }),
    rope: { theta: rope.theta, factor: rope.factor, ...(rope.yarn && { yarn: rope.yarn }) },
    kind: expertKind(raw),
    tied: boolean(raw, 'tie_word_embeddings', { fallback: defaults.tied }),
    eosIds: eosIds(raw, vocabulary),
  };
}

/** `head_dim` may be null or absent: hidden / heads. */
export function attentionConfig(
  raw: Config,
  hidden: number,
  o: Pick<AttentionConfig, 'inputBias' | 'outputBias' | 'queryKeyNorm' | 'clip'>,
): AttentionConfig {
  const heads = positiveInteger(raw, 'num_attention_heads', { max: caps.width });
  const kvHeads = positiveInteger(raw, 'num_key_value_heads', { max: caps.width, fallback: heads });
  if (heads % kvHeads !== 0) throw invalid('num_key_value_heads', `a divisor of the ${heads} heads`, String(kvHeads));
  const stated = optional(raw, 'head_dim', (config, key) => positiveInteger(config, key, { max: caps.width }));
  if (stated === undefined && hidden % heads !== 0) {
    throw invalid('num_attention_heads', `a divisor of hidden_size ${hidden}, as there is no head_dim`, String(heads));
  }
  const headDim = stated ?? hidden / heads;
  if (headDim % 2 !== 0) throw invalid('head_dim', 'an even number', String(headDim));
  if (heads * headDim > caps.width) throw invalid('head_dim', `heads · head_dim up to ${caps.width}`, String(headDim));
  return { heads, kvHeads, headDim, ...o };
}

/** Experts and choices a token; transformers 5 writes num_local_experts where version 4 wrote num_experts. */
export function routerSpec(raw: Config, renormalize: boolean): RouterSpec {
  const experts = positiveInteger(raw, ['num_local_experts', 'num_experts'], { max: caps.experts });
  const topK = positiveInteger(raw, 'num_experts_per_tok', { max: caps.experts });
  if (topK > experts) throw invalid('num_experts_per_tok', `up to the ${experts} experts`, String(topK));
  return { experts, topK, score: 'softmax', renormalize };
}

/** Which layers are sparse: not in mlp_only_layers, and index + 1 a multiple of decoder_sparse_step. */
export function sparseLayers(raw: Config, layerCount: number): boolean[] {
  const dense = new Set(integers(raw, 'mlp_only_layers', { min: 0, max: caps.layers, fallback: [] }));
  const step = positiveInteger(raw, 'decoder_sparse_step', { max: caps.layers, fallback: 1 });
  return Array.from({ length: layerCount }, (_, index) => !dense.has(index) && (index + 1) % step === 0);
}

/** The MoE or dense block of every layer, with the merged layers of a `moe` section. */
export function blocks(raw: Config, moe: MoeSpec, sparse: readonly boolean[], denseWidth: () => number): BlockConfig[] {
  const { experts } = moe.router;
  const compressed = compressedSection(raw, { layers: sparse.length, experts })?.layers;
  return sparse.map((isSparse, index): BlockConfig => {
    const layer = compressed?.get(index);
    if (isSparse) return { kind: 'moe', moe: layer ? compressedSpec(moe, layer) : moe };
    if (layer) throw invalid(`moe.layers.${index}`, 'an MoE layer', 'a dense one');
    return { kind: 'dense', width: denseWidth() };
  });
}

function compressedSpec(moe: MoeSpec, { groups, groupOf, router, widths, matrices }: CompressedLayer): MoeSpec {
  const { router: original } = moe;
  return {
    ...moe,
    ...(router === 'slots'
      ? { router: { ...original, experts: groups, topK: Math.min(original.topK, groups) } }
      : { merged: { groups, groupOf } }),
    ...(widths && { widths }),
    ...(matrices && { stored: matrices }),
  };
}

/** Keys that a query sees; 0: all. null, 0 and, where the family has the switch, `use_sliding_window: false` mean no window. */
export function slidingWindow(raw: Config, o: { hasSwitch: boolean }): number {
  const used = !o.hasSwitch || boolean(raw, 'use_sliding_window', { fallback: false });
  const window = optional(raw, 'sliding_window', (config, key) =>
    nonNegativeInteger(config, key, { max: caps.positions }),
  );
  return used ? (window ?? 0) : 0;
}

/** Names that the four families share; matrices without '.weight'. */
export function decoderNames(moe: (layer: string) => LayerNames['moe']): DecoderNames {
  return {
    embedding: 'model.embed_tokens',
    finalNorm: 'model.norm',
    head: 'lm_head',
    layer(index) {
      const layer = `model.layers.${index}`;
      return {
        inputNorm: `${layer}.input_layernorm`,
        query: `${layer}.self_attn.q_proj`,
        key: `${layer}.self_attn.k_proj`,
        value: `${layer}.self_attn.v_proj`,
        output: `${layer}.self_attn.o_proj`,
        queryNorm: `${layer}.self_attn.q_norm`,
        keyNorm: `${layer}.self_attn.k_norm`,
        blockNorm: `${layer}.post_attention_layernorm`,
        moe: moe(layer),
        dense: mlpNames(`${layer}.mlp`),
      };
    },
    ignored: [/\.rotary_emb\.inv_freq$/],
  };
}

export function mlpNames(prefix: string): { gate: string; up: string; down: string } {
  return { gate: `${prefix}.gate_proj`, up: `${prefix}.up_proj`, down: `${prefix}.down_proj` };
}

/** Puts the parts together. */
export function assemble(
  family: string,
  common: CommonConfig,
  attention: AttentionConfig,
  layerBlocks: readonly BlockConfig[],
  layerWindows: readonly number[],
): DecoderConfig {
  const { layerCount: _, ...rest } = common;
  const layers = layerBlocks.map((block, index) => ({ block, window: layerWindows[index] ?? 0 }));
  return { family, ...rest, attention, layers };
}

const gatedKinds: Readonly<Record<string, ExpertKind>> = {
  silu: 'swiglu',
  swish: 'swiglu',
  gelu_pytorch_tanh: 'geglu',
  gelu_new: 'geglu',
  gelu_fast: 'geglu',
};

function expertKind(raw: Config): ExpertKind {
  const name = string(raw, 'hidden_act', { fallback: 'silu' });
  if (Object.hasOwn(gatedKinds, name)) return gatedKinds[name] as ExpertKind;
  throw unsupported('hidden_act', Object.keys(gatedKinds).join(', '), name);
}

function eosIds(raw: Config, vocabulary: number): number[] {
  const key = 'eos_token_id';
  const limits = { min: 0, max: caps.vocabulary };
  if (raw[key] === undefined || raw[key] === null) return [];
  const ids = Array.isArray(raw[key]) ? integers(raw, key, limits) : [nonNegativeInteger(raw, key, limits)];
  // Small models often keep the id of the large one's vocabulary: it is never chosen.
  return ids.filter((id) => id < vocabulary);
}

export function invalid(argument: string, expected: string, received: string): MoeError {
  return new MoeError('CONFIG_INVALID', { argument, expected, received });
}

export function unsupported(argument: string, expected: string, received: string): MoeError {
  return new MoeError('CONFIG_UNSUPPORTED', { argument, expected, received });
}
