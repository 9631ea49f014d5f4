/** The slots of a layer that takes the place of an entered one: how tokens come to them, and what they give. */
import { MemoryTensors, type StoredTensor } from '../checkpoint/tensor-source.ts';
import type { Graph } from '../graph/graph.ts';
import type { Routing } from '../graph/routing.ts';
import type { Value } from '../graph/value.ts';
import { loadProjection } from '../moe/bank.ts';
import type { MoeValues } from '../moe/block.ts';
import { WeightLoader } from '../moe/loader.ts';
import type { MoeNames, MoeSpec } from '../moe/spec.ts';
import { Tensor } from '../tensor/tensor.ts';
import { Weight } from '../weight/weight.ts';
import { aimOf, minus } from './aim.ts';
import { describeLayer, encodeExperts, specOf } from './encode.ts';
import type { ExpertLayer } from './experts.ts';
import { type LayerPart, partBytes, partsOf, wholePart, widestOf } from './layer-parts.ts';
import { divideRows } from './quantize/awq.ts';
import type { TokenSelection } from './statistics/blocks.ts';
import type { LayerStream, Observed, ObserveOptions } from './statistics/layer-stream.ts';

/** An observed block, how its tokens come to the slots of the layer that takes its place, and what that should give. */
export interface RoutedObserved extends Observed {
  readonly routing: Routing;
  /** f32 [tokens, hidden]: the original output, and a share of what the layers before have lost. */
  readonly aim: Value;
}

/** Which of the slots and of the tokens are observed: all, if nothing is said. */
export interface ObservedSlots extends Pick<ObserveOptions, 'each' | 'into' | 'batch'> {
  /** Only the slots of a run of the layer. */
  readonly part?: LayerPart;
  /** f32 [tokens, hidden] of each batch: {@link RoutedObserved.aim} of these slots, where others give the rest. */
  readonly aim?: readonly Float32Array[] | undefined;
}

/** f32 [rows, …]: a value of the slots, row by row of a routing to them. */
export type RowsIn = (observed: Observed, routing: Routing) => Value;

/** How tokens come to slots. */
export type Router = (graph: Graph, values: MoeValues) => Routing;

/** What a router, or the original one, chose for the tokens of each batch. */
interface Choices {
  readonly router: Float32Array | undefined;
  /** i32 [tokens, chosen] */
  readonly ids: readonly { readonly tokens: number; readonly values: Int32Array }[];
}

export class SlotObserver {
  readonly spec: MoeSpec;
  readonly names: MoeNames;
  readonly stream: LayerStream;
  readonly signal: AbortSignal | undefined;
  /** Bytes of what is looked at together, unless a slot or a group alone has more. */
  readonly partBytes: number;
  #choices: Choices | undefined;

  constructor(
    spec: MoeSpec,
    names: MoeNames,
    stream: LayerStream,
    signal: AbortSignal | undefined,
    most: number = partBytes,
  ) {
    this.spec = spec;
    this.names = names;
    this.stream = stream;
    this.signal = signal;
    this.partBytes = most;
  }

  /** Sums of the caller's own, zero at first, over the tokens as the layer's slots get them; see {@link LayerStream.observe}. */
  observe<S extends string>(
    layer: ExpertLayer,
    shapes: Readonly<Record<S, readonly number[]>>,
    build: (observed: RoutedObserved, states: Readonly<Record<S, Value>>) => void,
    { part, aim, ...o }: ObservedSlots = {},
  ): Promise<Readonly<Record<S, Float64Array>>> {
    return this.withRouting(
      layer,
      (route, tokens) =>
        this.stream.observe(
          shapes,
          (observed, states) => {
            const routing = route(observed.graph, observed.values);
            build({ ...observed, routing, aim: observed.inputs.aim ?? aimOf(observed) }, states);
          },
          { ...o, tokens, ...(aim && { inputs: { aim } }) },
        ),
      part,
    );
  }

  /** What the rows of all slots together are short of what the block should give, f32 [tokens, hidden]. */
  missing({ graph, routing, aim }: RoutedObserved, rows: Value): Value {
    return minus(graph, aim, graph.combine(rows, routing));
  }

  /** The original router chooses otherwise from here on. */
  protected forgetChoices(): void {
    this.#choices = undefined;
  }

  /** What all slots together give, f32 [tokens, hidden] of each batch, summed up run by run. */
  async #outputs(layer: ExpertLayer, parts: readonly LayerPart[]): Promise<Float32Array[]> {
    const sums = this.stream.zeros();
    for (const part of parts) {
      await this.#withOutput(layer, part, (outputOf, tokens) =>
        this.#replace(
          sums,
          (observed) => observed.graph.add(observed.inputs.before as Value, outputOf(observed)),
          tokens,
        ),
      );
    }
    return sums;
  }

  /** What all slots together are short of what the block should give, f32 [tokens, hidden] of each batch. */
  async shortfall(layer: ExpertLayer, parts: readonly LayerPart[]): Promise<Float32Array[]> {
    const sums = await this.#outputs(layer, parts);
    await this.#replace(sums, (observed) => minus(observed.graph, aimOf(observed), observed.inputs.before as Value));
    return sums;
  }

  /** What the slots of a run should give, f32 [tokens, hidden] of each batch: what they give, and the layer's {@link shortfall}. */
  async runAim(layer: ExpertLayer, part: LayerPart, missing: readonly Float32Array[]): Promise<Float32Array[]> {
    const aim = missing.map((values) => values.slice());
    await this.#withOutput(layer, part, (outputOf, tokens) =>
      this.#replace(aim, (observed) => observed.graph.add(observed.inputs.before as Value, outputOf(observed)), tokens),
    );
    return aim;
  }

  /** Squared error of the layer's output over the squared original output, on the inputs that the layers before give. */
  async outputError(layer: ExpertLayer): Promise<number> {
    const { error, energy } = await this.blockError(layer);
    return energy > 0 ? error / energy : 0;
  }

  /** The block's squared error towards the original one, and the original's energy, over all tokens. */
  async blockError(layer: ExpertLayer): Promise<{ error: number; energy: number }> {
    const { hidden } = this.spec;
    const parts = this.hiddenParts(layer);
    const outputs = parts.length > 1 ? await this.#outputs(layer, parts) : undefined;
    const observe = (given: (observed: Observed) => Value) =>
      this.stream.observe(
        { error: [hidden], energy: [hidden] },
        (observed, states) => {
          const { graph, values } = observed;
          const original = graph.combine(values.rows, values.routing);
          const missing = minus(graph, original, given(observed));
          graph.accumulate('sum', graph.multiply(missing, missing), states.error);
          graph.accumulate('sum', graph.multiply(original, original), states.energy);
        },
        outputs && { inputs: { given: outputs } },
      );
    const { error, energy } = outputs
      ? await observe(({ inputs }) => inputs.given as Value)
      : await this.#withOutput(layer, parts[0] as LayerPart, observe);
    const total = (sums: Float64Array): number => sums.reduce((sum, value) => sum + value, 0);
    return { error: total(error), energy: total(energy) };
  }

  /** How tokens come to the slots of a run of the layer, by the original choices or by a router of its own, and which ones do. */
  protected async withRouting<T>(
    layer: ExpertLayer,
    body: (route: Router, tokens: TokenSelection | undefined) => Promise<T>,
    part: LayerPart = wholePart(layer),
  ): Promise<T> {
    const { router } = layer;
    const { partOf } = part;
    const { length: slots } = part.layer.slots;
    if (!router) {
      const tokens = await this.#tokensOf(layer, part, (_, { routing }) => routing);
      return body((graph, values) => graph.regroup(values.routing, partOf, slots), tokens);
    }
    const spec = specOf(this.spec, describeLayer(layer)).router;
    const format = { format: 'f32' } as const;
    const weightSpec = { in: this.spec.hidden, out: layer.slots.length, format };
    using weight = await Weight.from(this.stream.device, weightSpec, router);
    const route: Router = (graph, values) => graph.route(graph.linear(values.input, weight), spec);
    const tokens = await this.#tokensOf(layer, part, route);
    return await body((graph, values) => {
      const routing = route(graph, values);
      return slots === layer.slots.length ? routing : graph.regroup(routing, partOf, slots);
    }, tokens);
  }

  /** The tokens that reach a run, as a router that looks at each alone sends them; undefined: all, as it is the whole layer. */
  async #tokensOf(
    { router, slots }: ExpertLayer,
    { layer, partOf }: LayerPart,
    routed: (graph: Graph, values: MoeValues) => Routing,
  ): Promise<TokenSelection | undefined> {
    if (layer.slots.length === slots.length) return undefined;
    if (!this.#choices || this.#choices.router !== router) {
      const ids: Choices['ids'][number][] = [];
      await this.stream.observe({}, ({ graph, values }) => graph.output('ids', routed(graph, values).ids), {
        each: (outputs, tokens) => ids.push({ tokens, values: outputs.ids as Int32Array }),
      });
      this.#choices = { router, ids };
    }
    const reached = this.#choices.ids.map((ids) => {
      const { length } = ids.values;
      const tokens = Int32Array.from({ length: ids.tokens }, (_, token) => token);
      const each = length / ids.tokens;
      return tokens.filter((token) =>
        ids.values.subarray(token * each, (token + 1) * each).some((id) => (partOf[id] ?? -1) >= 0),
      );
    });
    return this.stream.select(reached);
  }

  /** What the slots of a run give together, f32 [tokens, hidden]. */
  #withOutput<T>(
    layer: ExpertLayer,
    part: LayerPart,
    body: (outputOf: (observed: Observed) => Value, tokens: TokenSelection | undefined) => Promise<T>,
  ): Promise<T> {
    return this.withRouting(
      layer,
      (route, tokens) =>
        this.withRows(part.layer, (rowsIn) =>
          body((observed) => {
            const routing = route(observed.graph, observed.values);
            return observed.graph.combine(rowsIn(observed, routing), routing);
          }, tokens),
        ),
      part,
    );
  }

  /** What the neurons of all slots give: f32 [rows, width], the input of their down projections. */
  protected withHidden<T>(layer: ExpertLayer, body: (hiddenIn: RowsIn) => Promise<T>): Promise<T> {
    return this.#withInput(layer, (inputOf) =>
      this.#withProjection(layer, 'up', (up) =>
        body((observed, routing) =>
          observed.graph.linear(inputOf(observed), up, { activation: this.spec.kind, routing }),
        ),
      ),
    );
  }

  /** What all slots give, before the gates: f32 [rows, hidden]. */
  withRows<T>(layer: ExpertLayer, body: (rowsIn: RowsIn) => Promise<T>): Promise<T> {
    return this.withHidden(layer, (hiddenIn) =>
      this.withDown(layer, (downOf) =>
        body((observed, routing) => downOf(observed.graph, hiddenIn(observed, routing), routing)),
      ),
    );
  }

  /** What the down projections of all slots make of their inputs. */
  protected withDown<T>(
    layer: ExpertLayer,
    body: (downOf: (graph: Graph, h: Value, routing: Routing) => Value) => Promise<T>,
  ): Promise<T> {
    return this.#withProjection(layer, 'down', (down) =>
      body((graph, h, routing) => graph.linear(h, down, { routing, gather: false })),
    );
  }

  /** What gate and up of all slots read. */
  async #withInput<T>(
    { inputScales }: ExpertLayer,
    body: (inputOf: (observed: Observed) => Value) => Promise<T>,
  ): Promise<T> {
    if (!inputScales) return body(({ values }) => values.input);
    const weights = divideRows(await this.stream.norm(), inputScales);
    using norm = await Tensor.from(this.stream.device, weights, { dtype: 'f32', shape: [weights.length] });
    return await body(({ normed }) => normed(norm));
  }

  /** One bank of the layer, exactly as a reader of the new folder will have it. */
  async #withProjection<T>(layer: ExpertLayer, which: 'up' | 'down', body: (weight: Weight) => Promise<T>): Promise<T> {
    const spec = specOf(this.spec, describeLayer(layer));
    const stored = spec.stored as NonNullable<MoeSpec['stored']>;
    const tensors: StoredTensor[] = [];
    for await (const tensor of encodeExperts(layer, spec, this.names, which)) tensors.push(tensor);
    const loader = new WeightLoader(this.stream.device, new MemoryTensors(tensors), { signal: this.signal });
    try {
      return await body(await loadProjection(loader, spec, stored, this.names, which));
    } finally {
      loader.dispose();
    }
  }

  /** Another value f32 [tokens, hidden] of each token in place of the one `before`. */
  async #replace(
    before: readonly Float32Array[],
    build: (observed: Observed) => Value,
    tokens?: TokenSelection,
  ): Promise<void> {
    const o = { inputs: { before }, into: { after: before }, tokens };
    await this.stream.observe({}, (observed) => observed.graph.output('after', build(observed)), o);
  }

  /** The layer in runs of which the moments of what down reads fit in memory. */
  protected hiddenParts(layer: ExpertLayer): LayerPart[] {
    const widest = widestOf(layer);
    return partsOf(layer, 8 * widest * (widest + layer.hidden), this.partBytes);
  }
}
