/** Assembles the graph of a decoder: embedding, layers of attention and MoE or dense MLP, pre-norm residuals. */
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import { buildMlp, buildMoe, type MoeValues, type MoeWeights } from '../moe/block.ts';
import type { MlpWeights } from '../moe/loader.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { Weight } from '../weight/weight.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { type CacheDtype, cacheForm, pageSize } from './kv-cache.ts';

export interface LayerWeights {
  readonly inputNorm: Tensor;
  readonly query: Weight;
  readonly key: Weight;
  readonly value: Weight;
  readonly output: Weight;
  readonly queryNorm: Tensor | undefined;
  readonly keyNorm: Tensor | undefined;
  readonly blockNorm: Tensor;
  readonly block:
    | { readonly kind: 'moe'; readonly moe: MoeWeights }
    | { readonly kind: 'dense'; readonly mlp: MlpWeights };
}

export interface DecoderWeights {
  /** [vocabulary, hidden]. */
  readonly embedding: Tensor;
  readonly layers: readonly LayerWeights[];
  readonly finalNorm: Tensor;
  /** hidden → vocabulary. */
  readonly head: Weight;
  /** f32 [headDim / 2]. */
  readonly frequencies: Tensor;
}

/** What a tap sees of an MoE layer. */
export interface LayerTap extends MoeValues {
  readonly layer: number;
  readonly weights: MoeWeights;
}

/** Called for each MoE layer while a graph is assembled; it may add nodes, states and outputs to it. */
export type Tap = (graph: Graph, layer: LayerTap) => void;

/** Where the tokens of a run stand: T tokens of S sequences, P pages a sequence (operations.h, moe_attention). */
export interface TokenPlaces {
  /** i32 [T]. */
  readonly positions: Value;
  readonly sequence: Value;
  /** i32 [S]. */
  readonly lengths: Value;
  /** i32 [S·P]. */
  readonly pages: Value;
  /** Of the states that hold keys and values. */
  readonly cache: CacheDtype;
}

/** The inputs of every decoder program. */
export interface DecoderInputs extends TokenPlaces {
  /** i32 [T]. */
  readonly ids: Value;
}

export function declareInputs(graph: Graph, cache: CacheDtype): DecoderInputs {
  return { ids: graph.input('ids', 'i32', ['tokens']), ...declarePlaces(graph, cache) };
}

export function declarePlaces(graph: Graph, cache: CacheDtype = 'f32'): TokenPlaces {
  return {
    positions: graph.input('positions', 'i32', ['tokens']),
    sequence: graph.input('sequence', 'i32', ['tokens']),
    lengths: graph.input('lengths', 'i32', ['sequences']),
    pages: graph.input('pages', 'i32', ['table']),
    cache,
  };
}

/**
 * Adds the layers to `graph`; the KV cache is the states `keys.<layer>` and `values.<layer>`.
 *
 * @param layers how many of the layers, from the first; default all
 * @returns f32 [T, hidden], before the final norm
 */
export function buildDecoder(
  graph: Graph,
  config: DecoderConfig,
  weights: DecoderWeights,
  inputs: DecoderInputs,
  o: { tap?: Tap | undefined; layers?: number | undefined } = {},
): Value {
  let x = graph.embed(inputs.ids, weights.embedding, { dtype: 'f32' });
  const norm = { epsilon: config.epsilon };
  for (const [index, layer] of weights.layers.slice(0, o.layers).entries()) {
    x = buildAttention(
      graph,
      config,
      layer,
      weights.frequencies,
      inputs,
      index,
      graph.norm(x, layer.inputNorm, norm),
      x,
    );
    const input = graph.norm(x, layer.blockNorm, norm);
    if (layer.block.kind === 'dense') {
      x = buildMlp(graph, input, layer.block.mlp, config.kind, x);
      continue;
    }
    const { y, values } = buildMoe(graph, input, layer.block.moe, x);
    o.tap?.(graph, { ...values, layer: index, weights: layer.block.moe });
    x = y;
  }
  return x;
}

/** Final norm and head: f32 logits [T, vocabulary] of f32 [T, hidden]. */
export function buildHead(graph: Graph, config: DecoderConfig, weights: DecoderWeights, x: Value): Value {
  return graph.linear(graph.norm(x, weights.finalNorm, { epsilon: config.epsilon }), weights.head);
}

/**
 * The attention of layer `index`, over the cache in the states `keys.<index>` and `values.<index>`: f32 [T, hidden].
 *
 * @param input f32 [T, hidden], after the norm
 */
export function buildAttention(
  graph: Graph,
  config: DecoderConfig,
  layer: LayerWeights,
  frequencies: Tensor,
  inputs: TokenPlaces,
  index: number,
  input: Value,
  residual: Value,
): Value {
  const { heads, kvHeads, headDim } = config.attention;
  const { positions, sequence, lengths, pages, cache } = inputs;
  const scale = config.rope.yarn?.attentionFactor ?? 1;
  const project = (weight: Weight, normWeight: Tensor | undefined): Value => {
    let y = graph.linear(input, weight);
    if (normWeight) y = graph.norm(y, normWeight, { epsilon: config.epsilon, width: normWeight.length });
    const { clip } = config.attention;
    return clip === undefined ? y : graph.map('clamp', y, undefined, { alpha: -clip, beta: clip });
  };
  const { dtype, width } = cacheForm(cache, kvHeads, headDim);
  const cacheShape = ['pages', pageSize, width];
  const attended = graph.attention({
    q: graph.rotate(project(layer.query, layer.queryNorm), positions, frequencies, { heads, scale }),
    k: graph.rotate(project(layer.key, layer.keyNorm), positions, frequencies, { heads: kvHeads, scale }),
    v: project(layer.value, undefined),
    positions,
    sequence,
    lengths,
    pages,
    kCache: graph.state(`keys.${index}`, dtype, cacheShape),
    vCache: graph.state(`values.${index}`, dtype, cacheShape),
    heads,
    kvHeads,
    scale: headDim ** -0.5,
    causal: true,
    window: config.layers[index]?.window ?? 0,
  });
  return graph.linear(attended, layer.output, { residual });
}
