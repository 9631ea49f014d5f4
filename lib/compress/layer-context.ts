/** What the steps of one layer ask of it: its original experts, and statistics on the inputs that the layers before really give. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { StoredFloats } from '../checkpoint/stored-matrix.ts';
import { MemoryTensors, type StoredTensor } from '../checkpoint/tensor-source.ts';
import { MoeError } from '../errors.ts';
import type { Graph } from '../graph/graph.ts';
import type { Routing } from '../graph/routing.ts';
import type { Value } from '../graph/value.ts';
import { loadProjection } from '../moe/bank.ts';
import type { MoeValues } from '../moe/block.ts';
import { WeightLoader } from '../moe/loader.ts';
import type { MoeNames, MoeSpec } from '../moe/spec.ts';
import { Weight } from '../weight/weight.ts';
import { aimOf, minus } from './aim.ts';
import type { HiddenPair } from './align/activations.ts';
import { describeLayer, encodeExperts, specOf } from './encode.ts';
import type { ExpertMatrices } from './expert.ts';
import type { ExpertLayer } from './experts.ts';
import {
  type LayerPart,
  partBytes,
  partsOf,
  rowsOf,
  SlotSums,
  slotMoments,
  wholePart,
  widestOf,
} from './layer-parts.ts';
import { originalExpert, originalExperts } from './originals.ts';
import type { Recipe } from './recipe/schema.ts';
import type { RefitStatistics } from './recover/ridge.ts';
import type { LayerStream, Observed, ObserveOptions } from './statistics/layer-stream.ts';
import type { Grouping } from './steps/group.ts';

/** What gate and up of a slot read: Σ g^power·x·xᵀ, f64 [hidden, hidden], over so many rows. */
export interface InputMoments {
  readonly gram: Float64Array;
  readonly rows: number;
}

/** An observed block, how its tokens come to the slots of the layer that takes its place, and what that should give. */
export interface RoutedObserved extends Observed {
  readonly routing: Routing;
  /** f32 [tokens, hidden]: the original output, and a share of what the layers before have lost. */
  readonly aim: Value;
}

/** Which of the slots and of the tokens are observed: all, if nothing is said. */
export interface ObservedSlots extends Pick<ObserveOptions, 'each' | 'batch'> {
  /** Only the slots of a run of the layer. */
  readonly part?: LayerPart;
  /** f32 [tokens, hidden] of each batch: {@link RoutedObserved.aim} of these slots, where others give the rest. */
  readonly aim?: readonly Float32Array[] | undefined;
}

export class LayerContext {
  readonly index: number;
  readonly spec: MoeSpec;
  readonly names: MoeNames;
  readonly stream: LayerStream;
  /** Whether what a step breaks is refitted. */
  readonly recover: boolean;
  /** Whether gate and up are among it. */
  readonly refitsGateUp: boolean;
  readonly signal: AbortSignal | undefined;
  /** Bytes of what is looked at together, unless a slot or a group alone has more. */
  readonly partBytes: number;
  /** What the last `group` step decided. */
  grouping: Grouping | undefined;
  readonly #checkpoint: Checkpoint;
  #router: Float32Array | undefined;

  constructor(
    index: number,
    spec: MoeSpec,
    names: MoeNames,
    stream: LayerStream,
    checkpoint: Checkpoint,
    recipe: Pick<Recipe, 'recover' | 'refit'>,
    signal?: AbortSignal,
    o: { partBytes?: number } = {},
  ) {
    this.index = index;
    this.spec = spec;
    this.names = names;
    this.stream = stream;
    this.#checkpoint = checkpoint;
    this.recover = recipe.recover !== 'none';
    this.refitsGateUp = this.recover && recipe.refit.includes('gate-up');
    this.signal = signal;
    this.partBytes = o.partBytes ?? partBytes;
  }

  /** Throws RECIPE_INVALID where no `group` step came before. */
  requireGrouping(): Grouping {
    if (this.grouping) return this.grouping;
    throw new MoeError('RECIPE_INVALID', { argument: 'merge', expected: 'a group step before it', received: 'none' });
  }

  /** The dense matrices of an original expert. */
  async original(expert: number): Promise<ExpertMatrices> {
    this.signal?.throwIfAborted();
    return originalExpert(this.#checkpoint, this.spec, this.names.expert(expert));
  }

  /** All original experts, read when they are asked for and stored as `form`. */
  originals(form: StoredFloats): ExpertLayer {
    return originalExperts(this.#checkpoint, this.spec, this.names, form);
  }

  /** f32 [experts, hidden]: the source's, or what was put in its place. */
  async router(): Promise<Float32Array> {
    return this.#router ?? this.#checkpoint.readF32(`${this.names.router}.weight`);
  }

  /** Other rows for the original router, f32 [experts, hidden]: from here on tokens choose by them. */
  async replaceRouter(rows: Float32Array): Promise<void> {
    this.#router = rows;
    await this.stream.replaceRouter(rows);
  }

  /**
   * Second moments of what gate and up of each slot read.
   *
   * @param power 0: every row alike; 2: rows count as much as their output does
   */
  inputMoments(layer: ExpertLayer, power: 0 | 1 | 2): SlotSums<InputMoments> {
    const { hidden, router } = this.spec;
    const parts = partsOf(layer, 8 * hidden * hidden, this.partBytes);
    return new SlotSums(parts, async (part) => {
      const shapes = { gram: [part.layer.slots.length, hidden, hidden], counts: [router.experts] };
      const { gram, counts } = await this.#withRouting(
        layer,
        (route) =>
          this.stream.observe(shapes, ({ graph, values }, states) => {
            const routing = route(graph, values);
            const x = graph.take(values.input, routing.tokenOf);
            graph.accumulate('gram', x, states.gram, { routing, gatePower: power });
            graph.accumulate('count', routing.ids, states.counts);
          }),
        part,
      );
      const rows = rowsOf(part, counts);
      return part.layer.slots.map((_, at) => ({
        gram: gram.subarray(at * hidden * hidden, (at + 1) * hidden * hidden),
        rows: rows[at] as number,
      }));
    });
  }

  /**
   * Moments of what down of each slot reads and should give, with gate and up as `layer` has them now, in the form in which they are stored.
   *
   * @param o.together the target of a slot is what it gives now, and its share of what all slots together are short of the original
   * block's output; else what its members gave in the original. A layer with a router of its own has no members: always together.
   */
  async hiddenMoments(layer: ExpertLayer, o: { together?: boolean } = {}): Promise<SlotSums<RefitStatistics>> {
    const { hidden, kind, router } = this.spec;
    const parts = this.#hiddenParts(layer);
    const together = o.together || layer.router !== undefined;
    const missing = together && parts.length > 1 ? await this.shortfall(layer, parts) : undefined;
    return new SlotSums(parts, async (part) => {
      const slots = part.layer.slots.length;
      const width = widestOf(part.layer);
      const shapes = { gram: [slots, width, width], cross: [slots, hidden, width], counts: [router.experts] };
      const run = (route: Router, up: Weight, down: Weight | undefined) =>
        this.stream.observe(
          shapes,
          (observed, states) => {
            const { graph, values } = observed;
            const routing = route(graph, values);
            const h = graph.linear(values.input, up, { activation: kind, routing });
            const target = down
              ? this.#shared(observed, routing, graph.linear(h, down, { routing, gather: false }))
              : this.#membersOutput(observed, part, routing);
            graph.accumulate('gram', h, states.gram, { routing, gatePower: 2 });
            graph.accumulate('gram', target, states.cross, { b: h, routing, gatePower: 1 });
            graph.accumulate('count', routing.ids, states.counts);
          },
          missing && { inputs: { missing } },
        );
      const { gram, cross, counts } = await this.#withRouting(
        layer,
        (route) =>
          this.withProjection(part.layer, 'up', (up) =>
            together
              ? this.withProjection(part.layer, 'down', (down) => run(route, up, down))
              : run(route, up, undefined),
          ),
        part,
      );
      const rows = rowsOf(part, counts);
      return part.layer.slots.map((slot, at) => slotMoments({ width, gram, cross, rows }, at, hidden, slot.width));
    });
  }

  /** What all slots together give, f32 [tokens, hidden] of each batch, summed up run by run. */
  async #outputs(layer: ExpertLayer, parts: readonly LayerPart[]): Promise<Float32Array[]> {
    let sums: Float32Array[] | undefined;
    for (const part of parts) {
      const given = await this.#withRows(layer, part, (rowsIn) =>
        this.#arrays({}, (observed) => {
          const { rows, routing } = rowsIn(observed);
          return observed.graph.combine(rows, routing);
        }),
      );
      sums ??= given.map(({ length }) => new Float32Array(length));
      for (const [batch, sum] of sums.entries()) {
        const own = given[batch] as Float32Array;
        for (let at = 0; at < sum.length; at++) sum[at] = (sum[at] as number) + (own[at] as number);
      }
    }
    return sums ?? [];
  }

  /** What all slots together are short of what the block should give, f32 [tokens, hidden] of each batch. */
  async shortfall(layer: ExpertLayer, parts: readonly LayerPart[]): Promise<Float32Array[]> {
    const given = await this.#outputs(layer, parts);
    return this.#arrays({ given }, (observed) =>
      minus(observed.graph, aimOf(observed), observed.inputs.given as Value),
    );
  }

  /** What the slots of a run should give, f32 [tokens, hidden] of each batch: what they give, and the layer's {@link shortfall}. */
  runAim(layer: ExpertLayer, part: LayerPart, missing: readonly Float32Array[]): Promise<Float32Array[]> {
    return this.#withRows(layer, part, (rowsIn) =>
      this.#arrays({ missing }, (observed) => {
        const { rows, routing } = rowsIn(observed);
        return observed.graph.add(observed.inputs.missing as Value, observed.graph.combine(rows, routing));
      }),
    );
  }

  /** A value f32 [tokens, hidden], batch by batch. */
  async #arrays(
    inputs: Readonly<Record<string, readonly Float32Array[]>>,
    build: (observed: Observed) => Value,
  ): Promise<Float32Array[]> {
    const found: Float32Array[] = [];
    const each: ObserveOptions['each'] = ({ value }) => found.push(value as Float32Array);
    await this.stream.observe({}, (observed) => observed.graph.output('value', build(observed)), { inputs, each });
    return found;
  }

  /** What the slots of a run give, row by row. */
  #withRows<T>(
    layer: ExpertLayer,
    part: LayerPart,
    body: (rowsIn: (observed: Observed) => { rows: Value; routing: Routing }) => Promise<T>,
  ): Promise<T> {
    return this.#withRouting(
      layer,
      (route) =>
        this.withProjection(part.layer, 'up', (up) =>
          this.withProjection(part.layer, 'down', (down) =>
            body(({ graph, values }) => {
              const routing = route(graph, values);
              const h = graph.linear(values.input, up, { activation: this.spec.kind, routing });
              return { rows: graph.linear(h, down, { routing, gather: false }), routing };
            }),
          ),
        ),
      part,
    );
  }

  /** The members' gated outputs in the original, row by row of a run's slots. */
  #membersOutput({ graph, values, weights }: Observed, { partOf }: LayerPart, routing: Routing): Value {
    if (partOf.every((slot) => slot >= 0)) return graph.combine(values.rows, values.routing, { onto: routing });
    // Experts of other runs have nothing to do.
    const { experts } = weights.spec.router;
    const own = graph.regroup(
      values.routing,
      partOf.map((slot, expert) => (slot < 0 ? -1 : expert)),
      experts,
    );
    const h = graph.linear(values.input, weights.experts.up, { activation: weights.spec.kind, routing: own });
    const rows = graph.linear(h, weights.experts.down, { routing: own, gather: false });
    return graph.combine(rows, own, { onto: routing });
  }

  #shared(observed: Observed, routing: Routing, rows: Value): Value {
    const { graph, inputs } = observed;
    const missing = inputs.missing ?? minus(graph, aimOf(observed), graph.combine(rows, routing));
    const gates = graph.combine(graph.clamp(rows, 1, 1), routing, { onto: routing });
    return graph.multiply(gates, graph.add(rows, graph.take(missing, routing.tokenOf)));
  }

  /** What the rows of all slots together are short of what the block should give, f32 [tokens, hidden]. */
  missing({ graph, routing, aim }: RoutedObserved, rows: Value): Value {
    return minus(graph, aim, graph.combine(rows, routing));
  }

  /** Sums of the caller's own, zero at first, over the tokens as the layer's slots get them; see {@link LayerStream.observe}. */
  observe<S extends string>(
    layer: ExpertLayer,
    shapes: Readonly<Record<S, readonly number[]>>,
    build: (observed: RoutedObserved, states: Readonly<Record<S, Value>>) => void,
    { part, aim, ...o }: ObservedSlots = {},
  ): Promise<Readonly<Record<S, Float64Array>>> {
    return this.#withRouting(
      layer,
      (route) =>
        this.stream.observe(
          shapes,
          (observed, states) => {
            const routing = route(observed.graph, observed.values);
            build({ ...observed, routing, aim: observed.inputs.aim ?? aimOf(observed) }, states);
          },
          { ...o, ...(aim && { inputs: { aim } }) },
        ),
      part,
    );
  }

  /** Squared error of the layer's output over the squared original output, on the inputs that the layers before give. */
  async outputError(layer: ExpertLayer): Promise<number> {
    const { error, energy } = await this.blockError(layer);
    return energy > 0 ? error / energy : 0;
  }

  /** The block's squared error towards the original one, and the original's energy, over all tokens. */
  async blockError(layer: ExpertLayer): Promise<{ error: number; energy: number }> {
    const { hidden } = this.spec;
    const parts = this.#hiddenParts(layer);
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
      : await this.#withRows(layer, parts[0] as LayerPart, (rowsIn) =>
          observe((observed) => {
            const { rows, routing } = rowsIn(observed);
            return observed.graph.combine(rows, routing);
          }),
        );
    const total = (sums: Float64Array): number => sums.reduce((sum, value) => sum + value, 0);
    return { error: total(error), energy: total(energy) };
  }

  #hiddenParts(layer: ExpertLayer): LayerPart[] {
    const widest = widestOf(layer);
    return partsOf(layer, 8 * widest * (widest + layer.hidden), this.partBytes);
  }

  /**
   * What the neurons of two layers of the same slots give side by side, slot by slot on the tokens that reach the slot, gates left out.
   * Both have the original router, and one width in all slots.
   */
  async hiddenPairs(layer: ExpertLayer, other: ExpertLayer): Promise<HiddenPair[]> {
    const slots = layer.slots.length;
    const { kind } = this.spec;
    const width = layer.slots[0]?.width as number;
    const row = [slots, width];
    const shapes = {
      ones: row,
      sums: row,
      squares: row,
      otherSums: row,
      otherSquares: row,
      cross: [slots, width, width],
    };
    const found = await this.#withRouting(layer, (route) =>
      this.withProjection(layer, 'up', (up) =>
        this.withProjection(other, 'up', (otherUp) =>
          this.stream.observe(shapes, ({ graph, values }, states) => {
            const routing = route(graph, values);
            const a = graph.linear(values.input, up, { activation: kind, routing });
            const b = graph.linear(values.input, otherUp, { activation: kind, routing });
            graph.accumulate('sum', graph.clamp(a, 1, 1), states.ones, { routing });
            graph.accumulate('sum', a, states.sums, { routing });
            graph.accumulate('sum', graph.multiply(a, a), states.squares, { routing });
            graph.accumulate('sum', b, states.otherSums, { routing });
            graph.accumulate('sum', graph.multiply(b, b), states.otherSquares, { routing });
            graph.accumulate('gram', a, states.cross, { b, routing });
          }),
        ),
      ),
    );
    return layer.slots.map((_, slot) => {
      const part = (sums: Float64Array, size: number): Float64Array => sums.subarray(slot * size, (slot + 1) * size);
      return {
        rows: found.ones[slot * width] as number,
        sums: part(found.sums, width),
        squares: part(found.squares, width),
        otherSums: part(found.otherSums, width),
        otherSquares: part(found.otherSquares, width),
        cross: part(found.cross, width * width),
      };
    });
  }

  /** One bank of the layer, exactly as a reader of the new folder will have it. */
  async withProjection<T>(layer: ExpertLayer, which: 'up' | 'down', body: (weight: Weight) => Promise<T>): Promise<T> {
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

  /** How tokens come to the slots of a run of the layer: by the original choices, or by a router of its own. */
  async #withRouting<T>(
    layer: ExpertLayer,
    body: (route: Router) => Promise<T>,
    { partOf, layer: { slots } }: LayerPart = wholePart(layer),
  ): Promise<T> {
    const { router } = layer;
    if (!router) return body((graph, values) => graph.regroup(values.routing, partOf, slots.length));
    const { hidden } = this.spec;
    const spec = specOf(this.spec, describeLayer(layer)).router;
    const format = { format: 'f32' } as const;
    const weightSpec = { in: hidden, out: layer.slots.length, format };
    using weight = await Weight.from(this.stream.device, weightSpec, router);
    return await body((graph, values) => {
      const routing = graph.route(graph.linear(values.input, weight), spec);
      return slots.length === layer.slots.length ? routing : graph.regroup(routing, partOf, slots.length);
    });
  }
}

type Router = (graph: Graph, values: MoeValues) => Routing;
