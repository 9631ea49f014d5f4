/** What a layer's experts are asked to give. */
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import type { Observed } from './statistics/layer-stream.ts';

/**
 * Of what the layers before have lost, this share is asked of a layer. Half of it is nearly as good as the best on every budget tried
 * (docs/compression.md); all of it asks experts for what their inputs do not tell.
 */
const correction = 0.5;

/** What the block should give: the original output, and a share of what the layers before have lost. */
export function aimOf({ graph, values, wanted }: Observed): Value {
  const original = graph.combine(values.rows, values.routing);
  if (!wanted) return original;
  return graph.add(original, graph.map('scale', minus(graph, wanted, original), undefined, { alpha: correction }));
}

/** a − b. */
export function minus(graph: Graph, a: Value, b: Value): Value {
  return graph.add(a, graph.map('scale', b, undefined, { alpha: -1 }));
}
