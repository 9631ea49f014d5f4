import { invalid, requireInteger, requireObject, viewName } from '../../arguments.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { type Assembly, required } from '../assembly.ts';
import { type Routing, requireRouting } from '../routing.ts';
import type { Value } from '../value.ts';

export interface RouteOptions {
  /** E, columns of the logits. */
  experts: number;
  /** K, the most choices a token. */
  topK: number;
  /**
   * Of the logits. softmax: over all experts; relu: max(logit, 0); relu_norm: that, divided by
   * √(its mean square over all experts + `epsilon`). Where a router has a positive weight per expert in that norm, it
   * belongs into the expert's down projection. Default 'softmax'.
   */
  score?: 'softmax' | 'sigmoid' | 'identity' | 'relu_norm' | 'relu' | undefined;
  /** Of 'relu_norm'. Default 1e-6. */
  epsilon?: number | undefined;
  /**
   * top_k: the best `topK` experts of each token. non_zero: those whose score is above 0, the best `topK` of them
   * where there are more. expert: each expert takes the `capacity` tokens with the best score for it, ties to the
   * lower token; a token keeps the first `topK` experts that took it. Default 'top_k'.
   */
  choice?: 'top_k' | 'non_zero' | 'expert' | undefined;
  /**
   * The most tokens that an expert takes in one run, in order of the tokens; what is chosen beyond becomes none (id −1,
   * gate 0) after the gates are renormalized. What a token gets then hangs on the other tokens of the run. 0: no limit;
   * with choice 'expert' at least 1. Default 0.
   */
  capacity?: number | undefined;
  /** Gates are divided by their sum. Default false. */
  renormalize?: boolean | undefined;
  /** Multiplies the gates. Default 1. */
  scale?: number | undefined;
  /** float [E], added for the choice only; not with choice 'expert'. */
  bias?: Tensor | undefined;
  /** i32 [E], the slot of each expert in the bank. */
  groupOf?: Tensor | Int32Array | undefined;
  /** Slots of the bank; needed where groupOf is a tensor. Default: the largest slot of groupOf + 1, or E. */
  slots?: number | undefined;
  /** Two choices of a token in one slot are one row with the summed gate. Default true. */
  coalesce?: boolean | undefined;
  /** Experts are cut into this many equal runs, of which the best `keptGroups` stay; choice 'top_k' only. Default 1. */
  expertGroups?: number | undefined;
  keptGroups?: number | undefined;
  /** i32 [T, K]: nothing is chosen, these are; `capacity` acts. −1: none. */
  ids?: Value | undefined;
  /** float [T, K], the gates of `ids`; without it they come from the logits. */
  gates?: Value | undefined;
}

/**
 * Chooses up to `topK` experts a token and lays out the rows of the bank; logits float [T, E]. Ties go to the lower index,
 * NaN is the lowest. Throws INVALID_ARGUMENT, SHAPE_MISMATCH, DTYPE_MISMATCH.
 */
export function route(g: Assembly, logits: Value | undefined, options: RouteOptions): Routing {
  const { experts, topK, score = 'softmax', renormalize = false, scale = 1, coalesce = true } = requireObject(options);
  requireInteger(experts, 'experts');
  const { expertGroups = 1, keptGroups = expertGroups, bias, ids, gates } = options;
  const { choice = 'top_k', capacity = 0, epsilon = 1e-6 } = options;
  // Copied: a later change of the caller's array must not change what `groupedBy` compares.
  const groupOf = isIndices(options.groupOf) ? Int32Array.from(options.groupOf) : options.groupOf;
  const slots = options.slots ?? slotsOf(groupOf, experts);
  const table = groupOf instanceof Int32Array ? g.indices(groupOf) : groupOf;
  const outputs = g.node(
    'route',
    { logits, bias, groupOf: table, ids, gates },
    {
      score,
      topK,
      renormalize,
      coalesce,
      experts,
      slots,
      expertGroups,
      keptGroups,
      scale,
      choice,
      capacity,
      epsilon,
    },
  );
  const output = (index: number): Value => required(outputs[index], 'route');
  return {
    ids: output(0),
    gates: output(1),
    rowOf: output(2),
    tokenOf: output(3),
    gateOf: output(4),
    offsets: output(5),
    experts,
    slots,
    topK,
    groupOf,
  };
}

/** The same choices and gates, laid out for a bank of `slots` by `groupOf` [experts]. Throws as {@link route}. */
export function regroup(
  g: Assembly,
  routing: Routing,
  groupOf: Tensor | Int32Array | undefined,
  slots: number,
  options: { coalesce?: boolean } = {},
): Routing {
  const { ids, gates, experts, topK } = requireRouting(routing);
  return route(g, undefined, { experts, topK, ids, gates, groupOf, slots, ...requireObject(options) });
}

function slotsOf(groupOf: Tensor | Int32Array | undefined, experts: number): number {
  if (groupOf === undefined) return experts;
  if (groupOf instanceof Tensor) {
    throw invalid('slots', 'a number, as groupOf is a tensor', undefined);
  }
  if (!isIndices(groupOf)) throw invalid('groupOf', 'a Tensor or an Int32Array', groupOf);
  return groupOf.reduce((most, slot) => Math.max(most, slot + 1), 0);
}

/** Also of another realm. */
function isIndices(groupOf: unknown): groupOf is Int32Array {
  return viewName(groupOf) === 'Int32Array';
}
