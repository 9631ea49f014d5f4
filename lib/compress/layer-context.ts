/** What the steps of one layer ask of it: its original experts, and statistics on the inputs that the layers before really give. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { StoredFloats } from '../checkpoint/stored-matrix.ts';
import { MoeError } from '../errors.ts';
import type { Routing } from '../graph/routing.ts';
import type { Value } from '../graph/value.ts';
import type { MoeNames, MoeSpec } from '../moe/spec.ts';
import { aimOf, minus } from './aim.ts';
import type { HiddenPair } from './align/activations.ts';
import type { ExpertMatrices } from './expert.ts';
import type { ExpertLayer } from './experts.ts';
import { type LayerPart, partsOf, rowsOf, SlotSums, slotMoments, widestOf } from './layer-parts.ts';
import { originalExpert, originalExperts } from './originals.ts';
import type { Recipe } from './recipe/schema.ts';
import type { RefitStatistics } from './recover/ridge.ts';
import { type Router, type RowsIn, SlotObserver } from './slot-observer.ts';
import type { TokenSelection } from './statistics/blocks.ts';
import type { LayerStream, Observed } from './statistics/layer-stream.ts';
import type { Grouping } from './steps/group.ts';

/** What gate and up of a slot read: Σ g^power·x·xᵀ, f64 [hidden, hidden], over so many rows. */
export interface InputMoments {
  readonly gram: Float64Array;
  readonly rows: number;
}

export class LayerContext extends SlotObserver {
  readonly index: number;
  /** Whether what a step breaks is refitted. */
  readonly recover: boolean;
  /** Whether gate and up are among it. */
  readonly refitsGateUp: boolean;
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
    super(spec, names, stream, signal, o.partBytes);
    this.index = index;
    this.#checkpoint = checkpoint;
    this.recover = recipe.recover !== 'none';
    this.refitsGateUp = this.recover && recipe.refit.includes('gate-up');
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
    this.forgetChoices();
    await this.stream.replaceRouter(rows);
  }

  /** f64 [hidden]: the root mean square of each of the block's inputs. */
  async inputMagnitude(): Promise<Float64Array> {
    const { squares } = await this.stream.observe({ squares: [this.spec.hidden] }, ({ graph, values }, states) => {
      graph.accumulate('sum', graph.multiply(values.input, values.input), states.squares);
    });
    return squares.map((sum) => Math.sqrt(sum / this.stream.tokens));
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
      const { gram, counts } = await this.withRouting(
        layer,
        (route, tokens) =>
          this.stream.observe(
            shapes,
            ({ graph, values }, states) => {
              const routing = route(graph, values);
              const x = graph.take(values.input, routing.tokenOf);
              graph.accumulate('gram', x, states.gram, { routing, gatePower: power });
              graph.accumulate('count', routing.ids, states.counts);
            },
            { tokens },
          ),
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
    const { hidden, router } = this.spec;
    const parts = this.hiddenParts(layer);
    const together = o.together || layer.router !== undefined;
    const missing = together && parts.length > 1 ? await this.shortfall(layer, parts) : undefined;
    return new SlotSums(parts, async (part) => {
      const slots = part.layer.slots.length;
      const width = widestOf(part.layer);
      const shapes = { gram: [slots, width, width], cross: [slots, hidden, width], counts: [router.experts] };
      const run = (route: Router, tokens: TokenSelection | undefined, hiddenIn: RowsIn, target: Target) =>
        this.stream.observe(
          shapes,
          (observed, states) => {
            const { graph } = observed;
            const routing = route(graph, observed.values);
            const h = hiddenIn(observed, routing);
            graph.accumulate('gram', h, states.gram, { routing, gatePower: 2 });
            graph.accumulate('gram', target(observed, routing, h), states.cross, { b: h, routing, gatePower: 1 });
            graph.accumulate('count', routing.ids, states.counts);
          },
          { tokens, inputs: missing && { missing } },
        );
      const { gram, cross, counts } = await this.withRouting(
        layer,
        (route, tokens) =>
          this.withHidden(part.layer, (hiddenIn) =>
            together
              ? this.withDown(part.layer, (downOf) =>
                  run(route, tokens, hiddenIn, (observed, routing, h) =>
                    this.#shared(observed, routing, downOf(observed.graph, h, routing)),
                  ),
                )
              : run(route, tokens, hiddenIn, (observed, routing) => this.#membersOutput(observed, part, routing)),
          ),
        part,
      );
      const rows = rowsOf(part, counts);
      return part.layer.slots.map((slot, at) => slotMoments({ width, gram, cross, rows }, at, hidden, slot.width));
    });
  }

  #shared(observed: Observed, routing: Routing, rows: Value): Value {
    const { graph, inputs } = observed;
    const missing = inputs.missing ?? minus(graph, aimOf(observed), graph.combine(rows, routing));
    const gates = graph.combine(graph.clamp(rows, 1, 1), routing, { onto: routing });
    return graph.multiply(gates, graph.add(rows, graph.take(missing, routing.tokenOf)));
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

  /**
   * What the neurons of two layers of the same slots give side by side, slot by slot on the tokens that reach the slot, gates left out.
   * Both have the original router, and one width in all slots.
   */
  async hiddenPairs(layer: ExpertLayer, other: ExpertLayer): Promise<HiddenPair[]> {
    const slots = layer.slots.length;
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
    const found = await this.withRouting(layer, (route) =>
      this.withHidden(layer, (hiddenIn) =>
        this.withHidden(other, (otherIn) =>
          this.stream.observe(shapes, (observed, states) => {
            const { graph } = observed;
            const routing = route(graph, observed.values);
            const [a, b] = [hiddenIn(observed, routing), otherIn(observed, routing)];
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
}

/** What a slot should give, row by row, beside what its neurons give. */
type Target = (observed: Observed, routing: Routing, h: Value) => Value;
