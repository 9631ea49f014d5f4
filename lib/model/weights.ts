/** Which tensors a decoder needs, and how they come to the device. */

import { requireObject } from '../arguments.ts';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { compressedSection } from '../checkpoint/compressed.ts';
import type { Device } from '../device/device.ts';
import { loadMoe } from '../moe/block.ts';
import { WeightLoader } from '../moe/loader.ts';
import {
  matrixNeed,
  mlpNeeds,
  moeNeeds,
  refuseUnknownTensors,
  requireTensors,
  type TensorNeed,
  vectorNeed,
} from '../moe/names.ts';
import { nativeForm, parseWeightFormat, type WeightFormat } from '../weight/format.ts';
import type { DecoderWeights, LayerWeights } from './decoder.ts';
import type { DecoderConfig, DecoderNames, LayerConfig, LayerNames } from './decoder-config.ts';
import { ropeFrequencies } from './rope.ts';

/**
 * The format of the expert matrices (routed, shared, and dense MLPs). Everything else stays as the file has it, but for the attention
 * projections where `attention` names a format for them.
 */
export type ModelWeights = WeightFormat & { attention?: WeightFormat | WeightFormat['format'] | undefined };

/** Formats after the options are checked; undefined: as stored. */
export interface WeightPlan {
  readonly experts: WeightFormat | undefined;
  readonly attention: WeightFormat | undefined;
}

/** Throws INVALID_ARGUMENT. */
export function weightPlan(weights: ModelWeights | undefined): WeightPlan {
  if (weights === undefined) return { experts: undefined, attention: undefined };
  const { attention, ...experts } = requireObject(weights, 'weights');
  const attentionFormat = typeof attention === 'string' ? parseWeightFormat(attention) : attention;
  nativeForm(experts);
  if (attentionFormat !== undefined) nativeForm(attentionFormat);
  return { experts, attention: attentionFormat };
}

/** Every tensor of a model. */
export function* decoderNeeds(config: DecoderConfig, names: DecoderNames): Generator<TensorNeed> {
  yield matrixNeed(names.embedding, config.vocabulary, config.hidden);
  for (const [index, layer] of config.layers.entries()) yield* layerNeeds(config, layer, names.layer(index));
  yield vectorNeed(`${names.finalNorm}.weight`, config.hidden);
  if (!config.tied) yield matrixNeed(names.head, config.vocabulary, config.hidden);
}

/**
 * Throws, before anything is allocated, CHECKPOINT_TENSOR_MISSING or CHECKPOINT_TENSOR_UNKNOWN with the names, SHAPE_MISMATCH,
 * DTYPE_MISMATCH.
 */
export function checkTensors(checkpoint: Checkpoint, config: DecoderConfig, names: DecoderNames): void {
  const quantized = compressedSection(checkpoint.config)?.weights;
  const needs = requireTensors(checkpoint, decoderNeeds(config, names), quantized);
  // A tied head may be stored once more; it is the embedding.
  const ignored = config.tied
    ? [...names.ignored, new RegExp(`^${names.head.replaceAll('.', '\\.')}\\.weight$`)]
    : names.ignored;
  refuseUnknownTensors(checkpoint, needs, ignored);
}

/** Loads everything; `loader` owns it. */
export async function loadDecoder(
  loader: WeightLoader,
  config: DecoderConfig,
  names: DecoderNames,
  plan: WeightPlan,
): Promise<DecoderWeights> {
  const embedding = await loader.tensor(`${names.embedding}.weight`);
  const layers: LayerWeights[] = [];
  for (const [index, layer] of config.layers.entries()) {
    layers.push(await loadLayer(loader, config, layer, names.layer(index), plan));
  }
  const finalNorm = await loader.tensor(`${names.finalNorm}.weight`);
  const head = await loader.linear(config.tied ? names.embedding : names.head, config.vocabulary, config.hidden);
  const frequencies = await loader.constant(ropeFrequencies(config.rope, config.attention.headDim));
  return { embedding, layers, finalNorm, head, frequencies };
}

/** A loader for a checkpoint of ours or of anybody. */
export function openLoader(
  device: Device,
  checkpoint: Checkpoint,
  options: { signal?: AbortSignal | undefined; onBytes?: ((bytes: number) => void) | undefined },
): WeightLoader {
  return new WeightLoader(device, checkpoint, { ...options, quantized: compressedSection(checkpoint.config)?.weights });
}

function* layerNeeds(config: DecoderConfig, layer: LayerConfig, names: LayerNames): Generator<TensorNeed> {
  const { hidden, attention } = config;
  const { block } = layer;
  const [queryWidth, keyWidth] = widths(config);
  yield vectorNeed(`${names.inputNorm}.weight`, hidden);
  yield matrixNeed(names.query, queryWidth, hidden);
  yield matrixNeed(names.key, keyWidth, hidden);
  yield matrixNeed(names.value, keyWidth, hidden);
  yield matrixNeed(names.output, hidden, queryWidth);
  yield vectorNeed(`${names.blockNorm}.weight`, hidden);
  if (attention.inputBias) {
    yield vectorNeed(`${names.query}.bias`, queryWidth);
    yield vectorNeed(`${names.key}.bias`, keyWidth);
    yield vectorNeed(`${names.value}.bias`, keyWidth);
  }
  if (attention.outputBias) yield vectorNeed(`${names.output}.bias`, hidden);
  if (attention.queryKeyNorm !== 'none') {
    const perHead = attention.queryKeyNorm === 'head';
    yield vectorNeed(`${names.queryNorm}.weight`, perHead ? attention.headDim : queryWidth);
    yield vectorNeed(`${names.keyNorm}.weight`, perHead ? attention.headDim : keyWidth);
  }
  if (block.kind === 'moe') yield* moeNeeds(block.moe, names.moe);
  else yield* mlpNeeds(names.dense, hidden, block.width);
}

/** One layer alone; `loader` owns it. */
export async function loadLayer(
  loader: WeightLoader,
  config: DecoderConfig,
  layer: LayerConfig,
  names: LayerNames,
  plan: WeightPlan,
): Promise<LayerWeights> {
  const { hidden, attention } = config;
  const [queryWidth, keyWidth] = widths(config);
  const input = { bias: attention.inputBias, format: plan.attention };
  const normed = attention.queryKeyNorm !== 'none';
  const { block } = layer;
  return {
    inputNorm: await loader.tensor(`${names.inputNorm}.weight`),
    query: await loader.linear(names.query, queryWidth, hidden, input),
    key: await loader.linear(names.key, keyWidth, hidden, input),
    value: await loader.linear(names.value, keyWidth, hidden, input),
    output: await loader.linear(names.output, hidden, queryWidth, {
      bias: attention.outputBias,
      format: plan.attention,
    }),
    queryNorm: normed ? await loader.tensor(`${names.queryNorm}.weight`) : undefined,
    keyNorm: normed ? await loader.tensor(`${names.keyNorm}.weight`) : undefined,
    blockNorm: await loader.tensor(`${names.blockNorm}.weight`),
    block:
      block.kind === 'moe'
        ? { kind: 'moe', moe: await loadMoe(loader, block.moe, names.moe, plan.experts) }
        : { kind: 'dense', mlp: await loader.mlps([names.dense], hidden, block.width, plan.experts) },
  };
}

/** Of all query heads together, and of all key heads. */
function widths({ attention: { heads, kvHeads, headDim } }: DecoderConfig): [number, number] {
  return [heads * headDim, kvHeads * headDim];
}
