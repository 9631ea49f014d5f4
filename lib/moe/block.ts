/** An MoE block: its weights, and its part of a graph. `Model` and `MoeLayer` build it here alike. */
import type { Graph } from '../graph/graph.ts';
import type { Routing } from '../graph/routing.ts';
import type { Value } from '../graph/value.ts';
import type { ExpertBank } from '../weight/bank.ts';
import type { WeightFormat } from '../weight/format.ts';
import type { Weight } from '../weight/weight.ts';
import { loadBank } from './bank.ts';
import type { MlpWeights, WeightLoader } from './loader.ts';
import type { MoeNames, MoeSpec } from './spec.ts';

export interface MoeWeights {
  readonly spec: MoeSpec;
  /** hidden → experts. */
  readonly router: Weight;
  readonly experts: ExpertBank;
  readonly shared: MlpWeights | undefined;
  /** hidden → 1. */
  readonly sharedGate: Weight | undefined;
}

/** The values inside an MoE block, for taps. T tokens, R = T·topK rows. */
export interface MoeValues {
  /** f32 [T, hidden]: the block's input, after the norm. */
  readonly input: Value;
  /** f32 [T, experts]. */
  readonly routerLogits: Value;
  /** Its slots are those of the bank: experts, or groups where experts were merged (rows coalesced). */
  readonly routing: Routing;
  /** f32 [R, width]: what `down` gets, in the rows of `routing`. */
  readonly hidden: Value;
  /** f32 [R, hidden]: what `down` gives, before the gates. */
  readonly rows: Value;
}

/** Loads a block's weights; `format` is that of routed and shared experts, absent: as stored. The router stays as stored. */
export async function loadMoe(
  loader: WeightLoader,
  spec: MoeSpec,
  names: MoeNames,
  format: WeightFormat | undefined,
): Promise<MoeWeights> {
  const router = await loader.linear(names.router, spec.router.experts, spec.hidden);
  const experts = await loadBank(loader, spec, names, format);
  return { spec, router, experts, ...(await loadShared(loader, spec, names, format)) };
}

/** Loads the shared expert and its gate, where there are such. */
export async function loadShared(
  loader: WeightLoader,
  spec: MoeSpec,
  names: MoeNames,
  format: WeightFormat | undefined,
): Promise<Pick<MoeWeights, 'shared' | 'sharedGate'>> {
  const hasShared = spec.sharedWidth > 0;
  const shared =
    hasShared && names.shared ? await loader.mlps([names.shared], spec.hidden, spec.sharedWidth, format) : undefined;
  const sharedGate = hasShared && names.sharedGate ? await loader.linear(names.sharedGate, 1, spec.hidden) : undefined;
  return { shared, sharedGate };
}

/**
 * Adds the block to `graph`: y = residual + Σ gate·expert(x) + σ(sharedGate(x))·shared(x), f32 [T, hidden].
 *
 * @param input f32 [T, hidden]
 */
export function buildMoe(
  graph: Graph,
  input: Value,
  weights: MoeWeights,
  residual?: Value,
): { y: Value; values: MoeValues } {
  const { spec, experts } = weights;
  const routerLogits = graph.linear(input, weights.router);
  const groups = spec.merged && { groupOf: spec.merged.groupOf, slots: spec.merged.groups };
  const routing = graph.route(routerLogits, { ...spec.router, ...groups });
  const hidden = graph.linear(input, experts.up, { activation: spec.kind, routing });
  const rows = graph.linear(hidden, experts.down, { routing, gather: false });
  const shared = weights.shared && buildMlp(graph, input, weights.shared, spec.kind);
  const sharedGate = weights.sharedGate && graph.linear(input, weights.sharedGate);
  const y = graph.combine(rows, routing, {
    ...(residual && { residual }),
    ...(shared && { shared }),
    ...(sharedGate && { sharedGate }),
  });
  return { y, values: { input, routerLogits, routing, hidden, rows } };
}

/** A dense gated MLP: y = down(f(gate(x)) · up(x)) + residual, f32 [T, hidden]. */
export function buildMlp(graph: Graph, input: Value, mlp: MlpWeights, kind: MoeSpec['kind'], residual?: Value): Value {
  const hidden = graph.linear(input, mlp.up, { activation: kind });
  return graph.linear(hidden, mlp.down, residual ? { residual } : {});
}
