/** What an MoE block is, apart from its weights: plain values that a family reads from config.json. */
import type { StoredExperts } from '../checkpoint/compressed.ts';
import type { ExpertKind } from '../weight/bank.ts';
import type { RouterSpec } from './router-spec.ts';

/** Which experts of a layer were merged: expert e runs as slot groupOf[e]. */
export interface MergeSpec {
  readonly groups: number;
  /** i32 [experts], each in 0 … groups − 1. */
  readonly groupOf: Int32Array;
}

export interface MoeSpec {
  readonly hidden: number;
  /** Neurons of one expert. */
  readonly width: number;
  readonly kind: ExpertKind;
  readonly router: RouterSpec;
  /** Absent: every expert has matrices of its own. */
  readonly merged?: MergeSpec;
  /** i32 [slots] neurons of each slot where they differ; absent: `width`. */
  readonly widths?: Int32Array;
  /** How the experts' matrices are stored where they are not plain. */
  readonly stored?: StoredExperts;
  /** Neurons of the shared expert; 0: there is none. */
  readonly sharedWidth: number;
}

/** Tensor names of a gated MLP, each without its ending '.weight'. */
export interface MlpNames {
  readonly gate: string;
  readonly up: string;
  readonly down: string;
}

/** Tensor names of an MoE block, each without its ending '.weight'. */
export interface MoeNames {
  readonly router: string;
  /** Of expert e, or of slot e where experts are merged. */
  expert(index: number): MlpNames;
  readonly shared?: MlpNames;
  /** [1, hidden]: the shared expert is multiplied by its sigmoid. */
  readonly sharedGate?: string;
}

/** Neurons of a slot. */
export function widthOf({ width, widths }: MoeSpec, slot: number): number {
  return widths?.[slot] ?? width;
}

/** Slots of the bank: groups where experts are merged, else the experts. */
export function slotsOf(spec: MoeSpec): number {
  return spec.merged?.groups ?? spec.router.experts;
}
