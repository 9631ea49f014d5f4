/** The block of one layer, back: from ∂loss/∂(its output) to ∂loss/∂(its input), and the gradients of its experts. */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { Device } from '../../device/device.ts';
import { Graph } from '../../graph/graph.ts';
import type { Value } from '../../graph/value.ts';
import type { BlockConfig, LayerNames } from '../../model/decoder-config.ts';
import { WeightLoader } from '../../moe/loader.ts';
import type { MlpNames, MoeSpec } from '../../moe/spec.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { denseMatrices, type ExpertLayer } from '../experts.ts';
import { productF32 } from '../numerics.ts';
import { originalExpert } from '../originals.ts';
import { DenseBanks, type ExpertGradients } from './experts.ts';
import { rmsNormGradient } from './norm.ts';
import { routerGradient } from './router.ts';

interface BlockOptions {
  readonly device: Device;
  readonly source: Checkpoint;
  readonly names: LayerNames;
  /** Of the block's norm. */
  readonly epsilon: number;
  /** f32 [tokens, hidden]: what the block gets, before its norm. */
  readonly x: Float32Array;
  /** f32 [tokens, hidden]: ∂loss/∂(x + block(norm(x))). */
  readonly gradient: Float32Array;
}

/**
 * ∂loss/∂x, f32 [tokens, hidden], and the gradients of the experts' dense matrices, slot by slot; none for a dense block.
 *
 * @param layer experts in place of the source's
 */
export async function blockGradient(
  block: BlockConfig,
  layer: ExpertLayer | undefined,
  o: BlockOptions,
): Promise<{ gradient: Float32Array; slots: ExpertGradients[] }> {
  const norm = await o.source.readF32(`${o.names.blockNorm}.weight`);
  const terms: Float32Array[] = [];
  let slots: ExpertGradients[] = [];
  if (block.kind === 'dense') {
    terms.push(...(await mlpGradient(o, o.names.dense, { hidden: norm.length, width: block.width })));
  } else {
    const routed = await routedGradient(o, block.moe, layer as ExpertLayer);
    slots = routed.slots;
    terms.push(...routed.terms);
    const { hidden, sharedWidth: width } = block.moe;
    const { shared, sharedGate } = o.names.moe;
    if (shared && width > 0) terms.push(...(await mlpGradient(o, shared, { hidden, width }, sharedGate)));
  }
  const toInput = new Float32Array(o.x.length);
  for (const term of terms) for (const [at, value] of term.entries()) toInput[at] = (toInput[at] as number) + value;
  const result = rmsNormGradient(o.x, norm, o.epsilon, toInput);
  return { gradient: result.map((value, at) => value + (o.gradient[at] as number)), slots };
}

/** What the routed experts and the router add to ∂loss/∂norm(x), and the experts' gradients. */
async function routedGradient(
  o: BlockOptions,
  { hidden, router: { topK, ...router } }: MoeSpec,
  layer: ExpertLayer,
): Promise<{ terms: Float32Array[]; slots: ExpertGradients[] }> {
  const rows = layer.router ?? (await o.source.readF32(`${o.names.moe.router}.weight`));
  const experts = rows.length / hidden;
  const spec = { ...router, experts, topK: Math.min(topK, experts) };
  const groups = !layer.router && { groupOf: layer.groupOf, slots: layer.slots.length };
  const matrices = layer.slots.map((_, slot) => denseMatrices(layer, slot));
  using banks = await DenseBanks.from(o.device, matrices, { toInput: true });
  const tokens = o.x.length / hidden;
  const choices = tokens * spec.topK;
  const into = {
    input: new Float32Array(o.x.length),
    gateSlopes: new Float32Array(choices),
    logits: new Float32Array(tokens * experts),
    ids: new Int32Array(choices),
    gates: new Float32Array(choices),
    rowOf: new Int32Array(choices),
  };
  const sums = await run(o, banks.shapes, into, async ({ graph, x, slope, loader, states }) => {
    const logits = graph.linear(x, await loader.matrix(rows, experts, hidden));
    const routing = graph.route(logits, { ...spec, ...groups });
    const values = banks.forward(graph, x, routing);
    const back = banks.accumulate(graph, { x, slope, routing, values }, states);
    const gateSlopes = await dots(graph, loader, values.y, back.rows);
    const { ids, gates, rowOf } = routing;
    const input = graph.combine(banks.toInput(graph, back, routing), routing);
    return { input, gateSlopes, logits, ids, gates, rowOf };
  });
  const toLogits = routerGradient(spec, into);
  const byRouter = await productF32(toLogits, rows, { rows: tokens, columns: hidden, depth: experts });
  return { terms: [into.input, byRouter], slots: banks.gradients(sums) };
}

/** What an MLP that every token goes through adds to ∂loss/∂norm(x); `gate`: its output is multiplied by the sigmoid of gate·x. */
async function mlpGradient(
  o: BlockOptions,
  names: MlpNames,
  size: { readonly hidden: number; readonly width: number },
  gate?: string,
): Promise<Float32Array[]> {
  const matrices = await originalExpert(o.source, size, names);
  using banks = await DenseBanks.from(o.device, [matrices], { toInput: true });
  const { hidden } = size;
  const tokens = o.x.length / hidden;
  const input = new Float32Array(o.x.length);
  if (!gate) {
    await run(o, {}, { input }, async ({ graph, x, slope }) => ({
      input: banks.toInput(graph, banks.back(graph, banks.forward(graph, x), slope)),
    }));
    return [input];
  }
  const into = { input, toGate: new Float32Array(tokens) };
  await run(o, {}, into, async ({ graph, x, slope, loader }) => {
    const share = graph.map('sigmoid', graph.linear(x, await loader.linear(gate, 1, hidden)));
    const values = banks.forward(graph, x);
    const back = banks.back(graph, values, graph.multiply(slope, share));
    const rest = graph.map('scale', share, undefined, { alpha: -1, beta: 1 });
    const toGate = graph.multiply(await dots(graph, loader, values.y, slope), graph.multiply(share, rest));
    return { input: banks.toInput(graph, back), toGate };
  });
  const row = await o.source.readF32(`${gate}.weight`);
  return [input, await productF32(into.toGate, row, { rows: tokens, columns: hidden, depth: 1 })];
}

/** a·b of each row, f32 [rows, 1]. */
async function dots(graph: Graph, loader: WeightLoader, a: Value, b: Value): Promise<Value> {
  const width = a.shape[1] as number;
  const ones = await loader.matrix(new Float32Array(width).fill(1), 1, width);
  return graph.linear(graph.multiply(a, b), ones);
}

interface Assembled<S extends string> {
  readonly graph: Graph;
  /** f32 [tokens, hidden]: the block's input, after the norm. */
  readonly x: Value;
  /** f32 [tokens, hidden]: ∂loss/∂(the block's output). */
  readonly slope: Value;
  readonly loader: WeightLoader;
  readonly states: Readonly<Record<S, Value>>;
}

/** Runs what `build` gives once, into arrays of the same names; the sums of the f64 states, zero at first. */
async function run<S extends string, N extends string>(
  { device, source, names, epsilon, x, gradient }: BlockOptions,
  shapes: Readonly<Record<S, readonly number[]>>,
  into: Readonly<Record<N, Float32Array | Int32Array>>,
  build: (assembled: Assembled<S>) => Promise<Record<N, Value>>,
): Promise<Record<S, Float64Array>> {
  const loader = new WeightLoader(device, source);
  const tensors = {} as Record<S, Tensor>;
  const stateNames = Object.keys(shapes) as S[];
  try {
    const norm = await loader.tensor(`${names.blockNorm}.weight`);
    const hidden = norm.length;
    const graph = new Graph(device);
    const states = stateNames.map((name) => [name, graph.state(name, 'f64', shapes[name])]);
    const input = graph.norm(graph.input('x', 'f32', ['tokens', hidden]), norm, { epsilon });
    const slope = graph.input('gradient', 'f32', ['tokens', hidden]);
    const outputs = await build({ graph, x: input, slope, loader, states: Object.fromEntries(states) });
    for (const [name, value] of Object.entries<Value>(outputs)) graph.output(name, value);
    for (const name of stateNames) tensors[name] = await Tensor.zeros(device, 'f64', shapes[name]);
    using program = graph.compile({ tokens: x.length / hidden });
    await program.run({ x, gradient, ...tensors }, { into });
    const sums = {} as Record<S, Float64Array>;
    for (const name of stateNames) sums[name] = (await tensors[name].read()) as Float64Array;
    return sums;
  } finally {
    for (const tensor of Object.values<Tensor>(tensors)) tensor.dispose();
    loader.dispose();
  }
}
