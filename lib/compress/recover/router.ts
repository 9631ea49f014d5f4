import type { LayerContext } from '../layer-context.ts';
import { ridgeSolve } from './ridge.ts';

/**
 * The router's rows that give the original model's logits best on the inputs that the compressed layers before give, by least squares with
 * the ridge of {@link ridgeSolve} towards the original rows: R = argmin Σ_t ‖R·x_t − logits_t‖² + λ‖R − R⁰‖².
 *
 * @returns f32 [experts, hidden]
 */
export async function refitRouter(context: LayerContext): Promise<Float32Array> {
  const { hidden, router } = context.spec;
  const shapes = { gram: [hidden, hidden], cross: [router.experts, hidden] };
  const sums = await context.stream.observe(shapes, ({ graph, values, weights, originalInput }, states) => {
    if (!originalInput) throw new TypeError('the original model does not run along');
    graph.accumulate('gram', values.input, states.gram);
    graph.accumulate('gram', graph.linear(originalInput, weights.router), states.cross, { b: values.input });
  });
  return ridgeSolve({ ...sums, rows: context.stream.tokens }, await context.router(), hidden, router.experts);
}
