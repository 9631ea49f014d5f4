/** What a decoder model is, apart from its weights. A family reads it from config.json; every value is checked by then. */
import type { Yarn } from '../checkpoint/config.ts';
import type { MlpNames, MoeNames, MoeSpec } from '../moe/spec.ts';
import type { ExpertKind } from '../weight/bank.ts';

export interface AttentionConfig {
  readonly heads: number;
  readonly kvHeads: number;
  /** Elements of one head. */
  readonly headDim: number;
  /** Whether the q, k and v projections have biases. */
  readonly inputBias: boolean;
  /** Whether the output projection has one. */
  readonly outputBias: boolean;
  /** RMS norms of q and k before rope: over each head, or over all heads together. */
  readonly queryKeyNorm: 'none' | 'head' | 'vector';
  /** q, k and v are clamped to ± this, before rope. */
  readonly clip: number | undefined;
}

export interface RopeConfig {
  readonly theta: number;
  /** Positions are divided by it (linear scaling; with YaRN only where elements turn slowly); 1: none. */
  readonly factor: number;
  readonly yarn?: Yarn;
}

/** The feed-forward part of a layer. */
export type BlockConfig =
  | { readonly kind: 'moe'; readonly moe: MoeSpec }
  | { readonly kind: 'dense'; readonly width: number };

export interface LayerConfig {
  /** Keys that a query sees, itself counted; 0: all. */
  readonly window: number;
  readonly block: BlockConfig;
}

export interface DecoderConfig {
  /** `model_type` of config.json. */
  readonly family: string;
  readonly vocabulary: number;
  readonly hidden: number;
  /** `max_position_embeddings`: the longest sequence, in tokens. */
  readonly context: number;
  /** ε of the RMS norms. */
  readonly epsilon: number;
  readonly attention: AttentionConfig;
  readonly rope: RopeConfig;
  /** Activation of the dense and expert MLPs. */
  readonly kind: ExpertKind;
  readonly layers: readonly LayerConfig[];
  /** Whether the head is the embedding table. */
  readonly tied: boolean;
  /** Ids that end a text. */
  readonly eosIds: readonly number[];
}

/** Names of a layer's tensors, matrices without their ending '.weight'. */
export interface LayerNames {
  readonly inputNorm: string;
  readonly query: string;
  readonly key: string;
  readonly value: string;
  readonly output: string;
  readonly queryNorm: string;
  readonly keyNorm: string;
  readonly blockNorm: string;
  readonly moe: MoeNames;
  readonly dense: MlpNames;
}

export interface DecoderNames {
  readonly embedding: string;
  readonly finalNorm: string;
  readonly head: string;
  layer(index: number): LayerNames;
  /** Tensors that a checkpoint may hold beside the weights. */
  readonly ignored: readonly RegExp[];
}

/** One model family: how its config.json reads and what its tensors are called. */
export interface Family {
  /** `model_type` of config.json. */
  readonly type: string;
  /** Throws CONFIG_INVALID, CONFIG_UNSUPPORTED. */
  config(raw: Readonly<Record<string, unknown>>): DecoderConfig;
  readonly names: DecoderNames;
}
