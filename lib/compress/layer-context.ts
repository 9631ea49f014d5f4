/** What the steps of one layer ask of it: its original experts, and statistics on the inputs that the layers before really give. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { MemoryTensors } from '../checkpoint/tensor-source.ts';
import { MoeError } from '../errors.ts';
import type { Graph } from '../graph/graph.ts';
import type { Routing } from '../graph/routing.ts';
import type { Value } from '../graph/value.ts';
import { loadProjection } from '../moe/bank.ts';
import type { MoeValues } from '../moe/block.ts';
import { WeightLoader } from '../moe/loader.ts';
import type { MlpNames, MoeNames, MoeSpec } from '../moe/spec.ts';
import { Weight } from '../weight/weight.ts';
import type { HiddenPair } from './align/activations.ts';
import { describeLayer, encodeLayer, specOf } from './encode.ts';
import type { ExpertMatrices } from './expert.ts';
import { type ExpertLayer, membersOf } from './experts.ts';
import type { RefitStatistics } from './recover/ridge.ts';
import type { LayerStream } from './statistics/layer-stream.ts';
import type { Grouping } from './steps/group.ts';

/** Sums over the rows that reach each slot, f64. `width` is the widest slot's. */
export interface HiddenMoments {
  readonly width: number;
  /** Σ g²·h·hᵀ, [slots, width, width]; h the slot's hidden row, g its (summed) gate. */
  readonly gram: Float64Array;
  /** Σ target·(g·h)ᵀ, [slots, hidden, width]; target: the members' original outputs times their gates. */
  readonly cross: Float64Array;
  /** Σ target·targetᵀ of its diagonal: the energy of each slot's target, [slots]. */
  readonly energy: Float64Array;
  /** Rows of each slot, [slots]. */
  readonly rows: Float64Array;
}

/**
 * Of what the layers before have lost, this share is asked of a layer. Half of it is nearly as good as the best on every budget tried
 * (docs/compression.md); all of it asks experts for what their inputs do not tell.
 */
const correction = 0.5;

export class LayerContext {
  readonly index: number;
  readonly spec: MoeSpec;
  readonly names: MoeNames;
  readonly stream: LayerStream;
  /** Whether what a step breaks is refitted. */
  readonly recover: boolean;
  readonly signal: AbortSignal | undefined;
  /** What the last `group` step decided. */
  grouping: Grouping | undefined;
  readonly #checkpoint: Checkpoint;

  constructor(
    index: number,
    spec: MoeSpec,
    names: MoeNames,
    stream: LayerStream,
    checkpoint: Checkpoint,
    recover: boolean,
    signal?: AbortSignal,
  ) {
    this.index = index;
    this.spec = spec;
    this.names = names;
    this.stream = stream;
    this.#checkpoint = checkpoint;
    this.recover = recover;
    this.signal = signal;
  }

  /** Throws RECIPE_INVALID where no `group` step came before. */
  requireGrouping(): Grouping {
    if (this.grouping) return this.grouping;
    throw new MoeError('RECIPE_INVALID', { argument: 'merge', expected: 'a group step before it', received: 'none' });
  }

  /** The dense matrices of an original expert. Rejects with CHECKPOINT_MALFORMED where a weight is not finite. */
  async original(expert: number): Promise<ExpertMatrices> {
    this.signal?.throwIfAborted();
    const [gate, up, down] = matrixNames(this.names.expert(expert));
    const { hidden, width } = this.spec;
    return {
      hidden,
      width,
      gate: await this.#finite(gate),
      up: await this.#finite(up),
      down: await this.#finite(down),
    };
  }

  async #finite(name: string): Promise<Float32Array> {
    const values = await this.#checkpoint.readF32(name);
    const at = values.findIndex((value) => !Number.isFinite(value));
    if (at < 0) return values;
    const received = `${values[at]} at element ${at}`;
    throw new MoeError('CHECKPOINT_MALFORMED', { argument: name, expected: 'finite weights', received });
  }

  /** f32 [experts, hidden]. */
  router(): Promise<Float32Array> {
    return this.#checkpoint.readF32(`${this.names.router}.weight`);
  }

  /**
   * Second moments of what gate and up read: Σ g^power·x·xᵀ over the rows of each slot, f64 [slots, hidden, hidden], and their rows.
   *
   * @param power 0: every row alike; 2: rows count as much as their output does
   */
  async inputMoments(layer: ExpertLayer, power: 0 | 1 | 2): Promise<{ gram: Float64Array; rows: Float64Array }> {
    const slots = layer.slots.length;
    const { hidden, router } = this.spec;
    const { gram, counts } = await this.#withRouting(layer, (route) =>
      this.stream.observe({ gram: [slots, hidden, hidden], counts: [router.experts] }, ({ graph, values }, states) => {
        const routing = route(graph, values);
        const x = graph.take(values.input, routing.tokenOf);
        graph.accumulate('gram', x, states.gram, { routing, gatePower: power });
        graph.accumulate('count', routing.ids, states.counts);
      }),
    );
    return { gram, rows: rowsOf(layer, counts) };
  }

  /**
   * Moments of what down reads and should give, with gate and up as `layer` has them now, in the form in which they are stored.
   *
   * @param o.together the target of a slot is what it gives now, and its share of what all slots together are short of the original
   * block's output; else what its members gave in the original. A layer with a router of its own has no members: always together.
   */
  async hiddenMoments(layer: ExpertLayer, o: { together?: boolean } = {}): Promise<HiddenMoments> {
    const slots = layer.slots.length;
    const { hidden, router, kind } = this.spec;
    const width = Math.max(...layer.slots.map((slot) => slot.width), 1);
    const shapes = {
      gram: [slots, width, width],
      cross: [slots, hidden, width],
      energy: [slots, hidden],
      counts: [router.experts],
    };
    const run = (route: Router, up: Weight, down: Weight | undefined) =>
      this.stream.observe(shapes, ({ graph, values, wanted }, states) => {
        const routing = route(graph, values);
        const h = graph.linear(values.input, up, { activation: kind, routing });
        const target = down
          ? this.#shared(graph, values, routing, graph.linear(h, down, { routing, gather: false }), wanted)
          : graph.combine(values.rows, values.routing, { onto: routing });
        graph.accumulate('gram', h, states.gram, { routing, gatePower: 2 });
        graph.accumulate('gram', target, states.cross, { b: h, routing, gatePower: 1 });
        graph.accumulate('sum', graph.multiply(target, target), states.energy, { routing });
        graph.accumulate('count', routing.ids, states.counts);
      });
    const together = o.together || layer.router !== undefined;
    const { gram, cross, energy, counts } = await this.#withRouting(layer, (route) =>
      this.withProjection(layer, 'up', (up) =>
        together ? this.withProjection(layer, 'down', (down) => run(route, up, down)) : run(route, up, undefined),
      ),
    );
    const total = Float64Array.from({ length: slots }, (_, slot) =>
      energy.subarray(slot * hidden, (slot + 1) * hidden).reduce((sum, value) => sum + value, 0),
    );
    return { width, gram, cross, energy: total, rows: rowsOf(layer, counts) };
  }

  #shared(graph: Graph, values: MoeValues, routing: Routing, rows: Value, wanted: Value | undefined): Value {
    const missing = minus(graph, aimOf(graph, values, wanted), graph.combine(rows, routing));
    const gates = graph.combine(graph.clamp(rows, 1, 1), routing, { onto: routing });
    return graph.multiply(gates, graph.add(rows, graph.take(missing, routing.tokenOf)));
  }

  /**
   * Sums of the caller's own, zero at first, over the tokens as the layer's slots get them.
   *
   * @param build taps; `aim` [tokens, hidden] is what the block should give
   * @param o.batch only this one of the calibration batches, counted round
   */
  observeSlots<S extends string>(
    layer: ExpertLayer,
    shapes: Readonly<Record<S, readonly number[]>>,
    build: (observed: ObservedSlots, states: Readonly<Record<S, Value>>) => void,
    o: { readonly batch?: number | undefined } = {},
  ): Promise<Readonly<Record<S, Float64Array>>> {
    return this.#withRouting(layer, (route) =>
      this.stream.observe(
        shapes,
        ({ graph, values, wanted }, states) => {
          const { input } = values;
          build({ graph, input, routing: route(graph, values), aim: aimOf(graph, values, wanted) }, states);
        },
        undefined,
        o,
      ),
    );
  }

  /** Squared error of the layer's output over the squared original output, on the inputs that the layers before give. */
  async outputError(layer: ExpertLayer): Promise<number> {
    const { error, energy } = await this.blockError(layer);
    return energy > 0 ? error / energy : 0;
  }

  /** The block's squared error towards the original one, and the original's energy, over all tokens. */
  async blockError(layer: ExpertLayer): Promise<{ error: number; energy: number }> {
    const { hidden, kind } = this.spec;
    const { error, energy } = await this.#withRouting(layer, (route) =>
      this.withProjection(layer, 'up', (up) =>
        this.withProjection(layer, 'down', (down) =>
          this.stream.observe({ error: [hidden], energy: [hidden] }, ({ graph, values }, states) => {
            const routing = route(graph, values);
            const h = graph.linear(values.input, up, { activation: kind, routing });
            const given = graph.combine(graph.linear(h, down, { routing, gather: false }), routing);
            const original = graph.combine(values.rows, values.routing);
            const missing = minus(graph, original, given);
            graph.accumulate('sum', graph.multiply(missing, missing), states.error);
            graph.accumulate('sum', graph.multiply(original, original), states.energy);
          }),
        ),
      ),
    );
    const total = (sums: Float64Array): number => sums.reduce((sum, value) => sum + value, 0);
    return { error: total(error), energy: total(energy) };
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
    const tensors = new MemoryTensors(await encodeLayer(layer, spec, this.names, 'F32'));
    const loader = new WeightLoader(this.stream.device, tensors, { signal: this.signal });
    try {
      return await body(
        await loadProjection(loader, spec, spec.stored as NonNullable<MoeSpec['stored']>, this.names, which),
      );
    } finally {
      loader.dispose();
    }
  }

  /** How tokens come to the layer's slots: by the original choices, or by a router of its own. */
  async #withRouting<T>(layer: ExpertLayer, body: (route: Router) => Promise<T>): Promise<T> {
    const { slots, groupOf, router } = layer;
    if (!router) return body((graph, values) => graph.regroup(values.routing, groupOf, slots.length));
    const { hidden } = this.spec;
    const spec = specOf(this.spec, describeLayer(layer)).router;
    const format = { format: 'f32' } as const;
    using weight = await Weight.from(this.stream.device, { in: hidden, out: slots.length, format }, router);
    return await body((graph, values) => graph.route(graph.linear(values.input, weight), spec));
  }
}

/** The input f32 [tokens, hidden] of a block, how its tokens come to slots, and what it should give. */
export interface ObservedSlots {
  readonly graph: Graph;
  readonly input: Value;
  readonly routing: Routing;
  readonly aim: Value;
}

type Router = (graph: Graph, values: MoeValues) => Routing;

/** What the block should give: the original output, and a share of what the layers before have lost. */
function aimOf(graph: Graph, values: MoeValues, wanted: Value | undefined): Value {
  const original = graph.combine(values.rows, values.routing);
  if (!wanted) return original;
  return graph.add(original, graph.map('scale', minus(graph, wanted, original), undefined, { alpha: correction }));
}

function minus(graph: Graph, a: Value, b: Value): Value {
  return graph.add(a, graph.map('scale', b, undefined, { alpha: -1 }));
}

/** Rows of each slot. */
function rowsOf(layer: ExpertLayer, counts: Float64Array): Float64Array {
  if (layer.router) return counts.slice(0, layer.slots.length);
  return Float64Array.from(membersOf(layer), (members) =>
    members.reduce((sum, expert) => sum + (counts[expert] as number), 0),
  );
}

export function matrixNames({ gate, up, down }: MlpNames): [string, string, string] {
  return [`${gate}.weight`, `${up}.weight`, `${down}.weight`];
}

/** The moments of one slot at its own width. */
export function slotMoments(
  { width: widest, gram, cross, rows }: HiddenMoments,
  slot: number,
  hidden: number,
  width: number,
): RefitStatistics {
  return {
    gram: cut(gram.subarray(slot * widest * widest, (slot + 1) * widest * widest), width, width, widest),
    cross: cut(cross.subarray(slot * hidden * widest, (slot + 1) * hidden * widest), hidden, width, widest),
    rows: rows[slot] as number,
  };
}

/** The first `rows` and `columns` of a matrix of row length `stride`. */
function cut(matrix: Float64Array, rows: number, columns: number, stride: number): Float64Array {
  if (columns === stride) return matrix.subarray(0, rows * columns);
  const part = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) part.set(matrix.subarray(row * stride, row * stride + columns), row * columns);
  return part;
}
