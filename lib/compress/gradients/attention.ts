/** The attention of one layer, back: from ∂loss/∂(its output) to ∂loss/∂(its input), on host arrays with native products. */
import type { TensorSource } from '../../checkpoint/tensor-source.ts';
import type { DecoderConfig, LayerNames } from '../../model/decoder-config.ts';
import { ropeFrequencies } from '../../model/rope.ts';
import { transpose } from '../expert.ts';
import { productF32 } from '../numerics.ts';
import { rmsNorm, rmsNormGradient } from './norm.ts';

/** What a projection gives, f32 [tokens, width], and the way back to what it reads. */
interface Projection {
  readonly values: Float32Array;
  /** ∂loss/∂(normed input), f32 [tokens, hidden], of ∂loss/∂values. */
  back(gradient: Float32Array): Promise<Float32Array>;
}

/**
 * The gradient through y = x + output(attention(norm(x))) of one window, which stands alone: causal, with the layer's own window, grouped
 * heads, rotary positions and the norms or the clip of q and k where the family has them.
 *
 * @param x f32 [tokens, hidden]: what the layer gets
 * @param gradient f32 [tokens, hidden]: ∂loss/∂y
 */
export async function attentionGradient(
  source: TensorSource,
  config: DecoderConfig,
  { names, window }: { readonly names: LayerNames; readonly window: number },
  x: Float32Array,
  gradient: Float32Array,
): Promise<Float32Array> {
  const { hidden, epsilon, attention } = config;
  const { heads, kvHeads, headDim } = attention;
  const tokens = x.length / hidden;
  const inputNorm = await source.readF32(`${names.inputNorm}.weight`);
  const input = rmsNorm(x, inputNorm, epsilon);
  const project = projector(source, config, input, tokens);
  const q = await project(names.query, heads, names.queryNorm);
  const k = await project(names.key, kvHeads, names.keyNorm);
  const v = await project(names.value, kvHeads, undefined);
  const [queryWidth, keyWidth] = [heads * headDim, kvHeads * headDim];
  const output = await source.readF32(`${names.output}.weight`);
  const attended = await productF32(gradient, output, { rows: tokens, columns: queryWidth, depth: hidden });
  const [dq, dk, dv] = [queryWidth, keyWidth, keyWidth].map((width) => new Float32Array(tokens * width)) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const scale = headDim ** -0.5;
  const square = { rows: tokens, columns: tokens, depth: headDim, transposed: true };
  const tall = { rows: tokens, columns: headDim, depth: tokens };
  for (let head = 0; head < heads; head++) {
    const shared = Math.floor(head / (heads / kvHeads));
    const query = headOf(q.values, tokens, head, headDim);
    const key = headOf(k.values, tokens, shared, headDim);
    const given = headOf(attended, tokens, head, headDim);
    const shares = softmax(await productF32(query, key, square), tokens, scale, window);
    const slopes = await productF32(given, headOf(v.values, tokens, shared, headDim), square);
    softmaxGradient(shares, slopes, tokens, scale);
    addHead(dq, await productF32(slopes, key, tall), tokens, head, headDim);
    addHead(dk, await productF32(transpose(slopes, tokens, tokens), query, tall), tokens, shared, headDim);
    addHead(dv, await productF32(transpose(shares, tokens, tokens), given, tall), tokens, shared, headDim);
  }
  const [byQuery, byKey, byValue] = [await q.back(dq), await k.back(dk), await v.back(dv)];
  const toInput = byQuery.map((value, at) => value + (byKey[at] as number) + (byValue[at] as number));
  const result = rmsNormGradient(x, inputNorm, epsilon, toInput);
  return result.map((value, at) => value + (gradient[at] as number));
}

/** Projections of `input`, f32 [tokens, hidden], as the decoder makes them; q and k, which may have a norm, are rotated. */
function projector(source: TensorSource, config: DecoderConfig, input: Float32Array, tokens: number) {
  const { hidden, epsilon } = config;
  const { headDim, inputBias, queryKeyNorm, clip } = config.attention;
  const frequencies = ropeFrequencies(config.rope, headDim);
  const scale = config.rope.yarn?.attentionFactor ?? 1;
  return async (name: string, heads: number, normName: string | undefined): Promise<Projection> => {
    const width = heads * headDim;
    const weight = await source.readF32(`${name}.weight`);
    const raw = await productF32(input, weight, { rows: tokens, columns: width, depth: hidden, transposed: true });
    if (inputBias) {
      const bias = await source.readF32(`${name}.bias`);
      for (let at = 0; at < raw.length; at++) raw[at] = (raw[at] as number) + (bias[at % width] as number);
    }
    const norm = normName && queryKeyNorm !== 'none' ? await source.readF32(`${normName}.weight`) : undefined;
    const normed = norm ? rmsNorm(raw, norm, epsilon) : raw;
    const clipped = clip === undefined ? normed : normed.map((value) => Math.min(Math.max(value, -clip), clip));
    const turn = (values: Float32Array, sign: 1 | -1): Float32Array =>
      normName ? rotated(values, width, headDim, frequencies, { scale, sign }) : values;
    return {
      values: turn(clipped, 1),
      async back(gradient) {
        // A rotation's transpose turns the other way.
        let slope = turn(gradient, -1);
        if (clip !== undefined) slope = slope.map((value, at) => (Math.abs(normed[at] as number) < clip ? value : 0));
        if (norm) slope = rmsNormGradient(raw, norm, epsilon, slope);
        return productF32(slope, weight, { rows: tokens, columns: hidden, depth: width });
      },
    };
  };
}

/** Pairs (i, i + D/2) of each head turned by the token's place, as operations.h has it. */
function rotated(
  x: Float32Array,
  width: number,
  headDim: number,
  frequencies: Float32Array,
  { scale, sign }: { scale: number; sign: 1 | -1 },
): Float32Array {
  const y = new Float32Array(x.length);
  const half = headDim / 2;
  for (let begin = 0; begin < x.length; begin += headDim) {
    const position = Math.floor(begin / width);
    for (let pair = 0; pair < half; pair++) {
      const angle = Math.fround(position * (frequencies[pair] as number));
      const [cosine, sine] = [Math.cos(angle) * scale, Math.sin(angle) * scale * sign];
      const [a, b] = [x[begin + pair] as number, x[begin + pair + half] as number];
      y[begin + pair] = a * cosine - b * sine;
      y[begin + pair + half] = b * cosine + a * sine;
    }
  }
  return y;
}

/** Shares of the keys that each token sees, in place of the scores [tokens, tokens]; window 0: all before it. */
function softmax(scores: Float32Array, tokens: number, scale: number, window: number): Float32Array {
  for (let token = 0; token < tokens; token++) {
    const first = window > 0 ? Math.max(0, token - window + 1) : 0;
    const row = scores.subarray(token * tokens, (token + 1) * tokens);
    let highest = Number.NEGATIVE_INFINITY;
    for (let key = first; key <= token; key++) highest = Math.max(highest, row[key] as number);
    let total = 0;
    for (let key = first; key <= token; key++) total += Math.exp(((row[key] as number) - highest) * scale);
    for (let key = 0; key < tokens; key++) {
      const seen = key >= first && key <= token;
      row[key] = seen ? Math.exp(((row[key] as number) - highest) * scale) / total : 0;
    }
  }
  return scores;
}

/** ∂loss/∂(q·k) in place of ∂loss/∂shares, [tokens, tokens]. */
function softmaxGradient(shares: Float32Array, slopes: Float32Array, tokens: number, scale: number): void {
  for (let begin = 0; begin < slopes.length; begin += tokens) {
    let mean = 0;
    for (let at = begin; at < begin + tokens; at++) mean += (shares[at] as number) * (slopes[at] as number);
    for (let at = begin; at < begin + tokens; at++) {
      slopes[at] = scale * (shares[at] as number) * ((slopes[at] as number) - mean);
    }
  }
}

/** [tokens, headDim] of one head. */
function headOf(x: Float32Array, tokens: number, head: number, headDim: number): Float32Array {
  const stride = x.length / tokens;
  const part = new Float32Array(tokens * headDim);
  for (let token = 0; token < tokens; token++) {
    const from = token * stride + head * headDim;
    part.set(x.subarray(from, from + headDim), token * headDim);
  }
  return part;
}

function addHead(to: Float32Array, part: Float32Array, tokens: number, head: number, headDim: number): void {
  const stride = to.length / tokens;
  for (let at = 0; at < part.length; at++) {
    const index = Math.floor(at / headDim) * stride + head * headDim + (at % headDim);
    to[index] = (to[index] as number) + (part[at] as number);
  }
}
