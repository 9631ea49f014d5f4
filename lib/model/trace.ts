/** What happens inside a model over one text: routing and hidden states of every layer. */
import { invalid, requireObject, requireSignal, show } from '../arguments.ts';
import { Graph } from '../graph/graph.ts';
import type { Program } from '../graph/program.ts';
import type { Value } from '../graph/value.ts';
import { buildMlp, buildMoe } from '../moe/block.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { CachePool } from './cache-pool.ts';
import {
  buildAttention,
  type DecoderInputs,
  type DecoderWeights,
  declareInputs,
  type LayerWeights,
} from './decoder.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { pagesFor } from './kv-cache.ts';
import { maximumTokens, type Runner } from './runner.ts';

const traceParts = ['routerLogits', 'experts', 'hidden'] as const;

/** routerLogits: of all experts; experts: those chosen, and their gates; hidden: states after each layer. */
export type TracePart = (typeof traceParts)[number];

export interface TraceOptions {
  /** What is traced. Default: all. */
  include?: readonly TracePart[] | undefined;
  signal?: AbortSignal | undefined;
}

/** One layer over T tokens. What was not asked for, and routing in a dense layer, is absent. */
export interface LayerTrace {
  readonly layer: number;
  readonly kind: 'moe' | 'dense';
  /** f32 [T, experts], before the softmax. */
  readonly routerLogits?: Float32Array;
  /** i32 [T, topK], best first: the router's rows, so original experts also where experts were merged. */
  readonly ids?: Int32Array;
  /** f32 [T, topK]. */
  readonly gates?: Float32Array;
  /** f32 [T, hidden]: the layer's output with its residual, before the next norm. */
  readonly hidden?: Float32Array;
}

export interface ModelTrace {
  readonly tokens: number;
  /** Of every layer, in order. */
  readonly layers: readonly LayerTrace[];
}

/** @internal Runs the text, in runs of at most 512 tokens, through all layers. Throws INVALID_ARGUMENT. */
export async function traceModel(
  runner: Runner,
  pool: CachePool,
  weights: DecoderWeights,
  ids: Int32Array,
  options: TraceOptions,
): Promise<ModelTrace> {
  const { include = traceParts, signal } = requireObject(options);
  requireSignal(signal);
  requireParts(include);
  if (ids.length === 0) throw invalid('ids', 'at least one token', []);
  const { config } = runner;
  const cache = pool.borrow(ids.length);
  const sequence = cache.sequence();
  let program: Program | undefined;
  const traced = new Map<string, Float32Array | Int32Array>();
  try {
    const run = Math.min(ids.length, maximumTokens);
    const sizes = { tokens: run, sequences: 1, table: pagesFor(ids.length), pages: cache.pages };
    program = buildTrace(runner, weights, new Set(include)).compile(sizes);
    for (let at = 0; at < ids.length; at += maximumTokens) {
      const chunk = { sequence, ids: ids.subarray(at, at + maximumTokens) };
      const outputs = await runner.observe(program, [chunk], {}, { cache, signal, layers: config.layers.length });
      try {
        for (const [name, tensor] of Object.entries(outputs)) await keep(traced, name, tensor, at, ids.length);
      } finally {
        for (const tensor of Object.values(outputs)) tensor.dispose();
      }
    }
  } finally {
    cache.release(sequence);
    pool.giveBack(cache);
    program?.dispose();
  }
  const layers = config.layers.map(({ block }, layer): LayerTrace => {
    const own = [...traceNames].flatMap((name) => {
      const values = traced.get(`${name}.${layer}`);
      return values ? [[name, values]] : [];
    });
    return { layer, kind: block.kind, ...Object.fromEntries(own) };
  });
  return { tokens: ids.length, layers };
}

const traceNames = ['routerLogits', 'ids', 'gates', 'hidden'] as const;

function requireParts(include: readonly TracePart[]): void {
  if (!Array.isArray(include)) throw invalid('include', 'a list', include);
  const at = include.findIndex((part: unknown) => !(traceParts as readonly unknown[]).includes(part));
  if (at !== -1) throw invalid(`include[${at}]`, traceParts.map(show).join(', '), include[at]);
}

/** The rows of a run behind those of the runs before. */
async function keep(
  traced: Map<string, Float32Array | Int32Array>,
  name: string,
  tensor: Tensor,
  at: number,
  tokens: number,
): Promise<void> {
  const rows = (await tensor.read()) as Float32Array | Int32Array;
  const [, width = 1] = tensor.shape;
  const all =
    traced.get(name) ??
    (rows instanceof Int32Array ? new Int32Array(tokens * width) : new Float32Array(tokens * width));
  all.set(rows, at * width);
  traced.set(name, all);
}

/** The decoder without its head, with an output for each thing traced. */
function buildTrace(
  { device, config, cacheDtype }: Runner,
  weights: DecoderWeights,
  include: ReadonlySet<TracePart>,
): Graph {
  const graph = new Graph(device);
  const inputs = declareInputs(graph, cacheDtype);
  let x = graph.embed(inputs.ids, weights.embedding, { dtype: 'f32' });
  for (const [index, layer] of weights.layers.entries()) {
    x = buildLayer(graph, config, weights.frequencies, layer, inputs, index, x, include);
    if (include.has('hidden')) graph.output(`hidden.${index}`, x);
  }
  return graph;
}

function buildLayer(
  graph: Graph,
  config: DecoderConfig,
  frequencies: Tensor,
  layer: LayerWeights,
  inputs: DecoderInputs,
  index: number,
  x: Value,
  include: ReadonlySet<TracePart>,
): Value {
  const norm = { epsilon: config.epsilon };
  const middle = buildAttention(
    graph,
    config,
    layer,
    frequencies,
    inputs,
    index,
    graph.norm(x, layer.inputNorm, norm),
    x,
  );
  const input = graph.norm(middle, layer.blockNorm, norm);
  if (layer.block.kind === 'dense') return buildMlp(graph, input, layer.block.mlp, config.kind, middle);
  const { y, values } = buildMoe(graph, input, layer.block.moe, middle);
  if (include.has('routerLogits')) graph.output(`routerLogits.${index}`, values.routerLogits);
  if (include.has('experts')) {
    graph.output(`ids.${index}`, values.routing.ids).output(`gates.${index}`, values.routing.gates);
  }
  return y;
}
