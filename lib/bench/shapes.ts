/**
 * Sizes of public models, and of one's own. They are those of each model's published config.json: google/switch-base-8 (`d_model`,
 * `d_ff`, `num_experts`; the gate is the probability of the best expert), Qwen/Qwen3-30B-A3B, allenai/OLMoE-1B-7B-0924,
 * mistralai/Mixtral-8x7B-v0.1 (softmax over the chosen two: gates add up to 1), openai/gpt-oss-20b and
 * ibm-granite/granite-3.0-1b-a400m (likewise over four and eight), deepseek-ai/DeepSeek-V2-Lite (`norm_topk_prob` false),
 * LiquidAI/LFM2-8B-A1B (`moe_intermediate_size`). Checked on 2026-11-28 against quotations of these files in public code, and for
 * Switch against code that loads its weights. Biases, clamps and shared experts are left out.
 */
import { invalid } from '../arguments.ts';
import type { ExpertKind } from '../weight/bank.ts';

export interface BenchShape {
  /** The preset, and the sizes that differ from it. */
  readonly name: string;
  readonly preset: string;
  readonly hidden: number;
  /** Width of one expert. */
  readonly intermediate: number;
  readonly experts: number;
  readonly topK: number;
  readonly kind: ExpertKind;
  readonly renormalize: boolean;
  readonly heads: number;
  readonly kvHeads: number;
  /** 0: its attention is latent (MLA), which the operation `attention` does not compute in that form. */
  readonly headDim: number;
}

const rows: Readonly<Record<string, Omit<BenchShape, 'name' | 'preset'>>> = {
  'switch-base-8': shape(768, 3072, 8, 1, 'relu', false, 12, 12, 64),
  'qwen3-30b-a3b': shape(2048, 768, 128, 8, 'swiglu', true, 32, 4, 128),
  olmoe: shape(2048, 1024, 64, 8, 'swiglu', false, 16, 16, 128),
  'mixtral-8x7b': shape(4096, 14336, 8, 2, 'swiglu', true, 32, 8, 128),
  'gpt-oss-20b': shape(2880, 2880, 32, 4, 'swiglu', true, 64, 8, 64),
  'deepseek-v2-lite': shape(2048, 1408, 64, 6, 'swiglu', false, 16, 16, 0),
  'lfm2-8b-a1b': shape(2048, 1792, 32, 4, 'swiglu', true, 32, 8, 64),
  'granite-1b-a400m': shape(1024, 512, 32, 8, 'swiglu', true, 16, 8, 64),
};

function shape(
  hidden: number,
  intermediate: number,
  experts: number,
  topK: number,
  kind: ExpertKind,
  renormalize: boolean,
  heads: number,
  kvHeads: number,
  headDim: number,
): Omit<BenchShape, 'name' | 'preset'> {
  return { hidden, intermediate, experts, topK, kind, renormalize, heads, kvHeads, headDim };
}

/** Sizes in place of those of a preset. */
export type OwnSizes = {
  readonly [size in Exclude<keyof BenchShape, 'name' | 'preset' | 'kind'>]?: BenchShape[size] | undefined;
};

export const shapeNames: readonly string[] = Object.keys(rows);

/** A preset with sizes of one's own in it, which its name then tells. Throws INVALID_ARGUMENT. */
export function benchShape(name: string, own: OwnSizes = {}): BenchShape {
  const sizes = rows[name];
  if (!sizes) throw invalid('shape', shapeNames.join(', '), name);
  const given = Object.entries(own).filter(([, value]) => value !== undefined);
  const made = { name: [name, ...given.map(([key, value]) => `${key}=${value}`)].join(' '), preset: name, ...sizes };
  const shape = { ...made, ...Object.fromEntries(given) };
  if (shape.topK > shape.experts) throw invalid('topK', `at most ${shape.experts} experts`, shape.topK);
  if (shape.heads % shape.kvHeads !== 0) throw invalid('kvHeads', `a divisor of ${shape.heads} heads`, shape.kvHeads);
  return shape;
}

export function gated({ kind }: BenchShape): boolean {
  return kind === 'swiglu' || kind === 'geglu';
}
