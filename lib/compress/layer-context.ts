/** What the steps of one layer ask of it: its original experts, and statistics on the inputs that the layers before really give. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { MemoryTensors } from '../checkpoint/tensor-source.ts';
import { MoeError } from '../errors.ts';
import type { Graph } from '../graph/graph.ts';
import type { Routing } from '../graph/routing.ts';
import { loadProjection } from '../moe/bank.ts';
import type { MoeValues } from '../moe/block.ts';
import { WeightLoader } from '../moe/loader.ts';
import type { MlpNames, MoeNames, MoeSpec } from '../moe/spec.ts';
import type { Weight } from '../weight/weight.ts';
import { describeLayer, encodeLayer, specOf } from './encode.ts';
import type { ExpertMatrices } from './expert.ts';
import { type ExpertLayer, membersOf } from './experts.ts';
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

  /** The dense matrices of an original expert. */
  async original(expert: number): Promise<ExpertMatrices> {
    this.signal?.throwIfAborted();
    const [gate, up, down] = matrixNames(this.names.expert(expert));
    const { hidden, width } = this.spec;
    return {
      hidden,
      width,
      gate: await this.#checkpoint.readF32(gate),
      up: await this.#checkpoint.readF32(up),
      down: await this.#checkpoint.readF32(down),
    };
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
  async inputMoments(
    layer: Pick<ExpertLayer, 'slots' | 'groupOf'>,
    power: 0 | 1 | 2,
  ): Promise<{ gram: Float64Array; rows: Float64Array }> {
    const slots = layer.slots.length;
    const { hidden, router } = this.spec;
    const { gram, counts } = await this.stream.observe(
      { gram: [slots, hidden, hidden], counts: [router.experts] },
      ({ graph, values }, states) => {
        const routing = this.#routing(graph, values, layer);
        const x = graph.take(values.input, routing.tokenOf);
        graph.accumulate('gram', x, states.gram, { routing, gatePower: power });
        graph.accumulate('count', values.routing.ids, states.counts);
      },
    );
    return { gram, rows: this.#rowsOf(layer, counts) };
  }

  /** Moments of what down reads and should give, with gate and up as `layer` has them now, in the form in which they are stored. */
  async hiddenMoments(layer: ExpertLayer): Promise<HiddenMoments> {
    const slots = layer.slots.length;
    const { hidden, router, kind } = this.spec;
    const width = Math.max(...layer.slots.map((slot) => slot.width), 1);
    return this.withProjection(layer, 'up', async (up) => {
      const { gram, cross, energy, counts } = await this.stream.observe(
        {
          gram: [slots, width, width],
          cross: [slots, hidden, width],
          energy: [slots, hidden],
          counts: [router.experts],
        },
        ({ graph, values }, states) => {
          const routing = this.#routing(graph, values, layer);
          const target = graph.combine(values.rows, values.routing, { onto: routing });
          const h = graph.linear(values.input, up, { activation: kind, routing });
          graph.accumulate('gram', h, states.gram, { routing, gatePower: 2 });
          graph.accumulate('gram', target, states.cross, { b: h, routing, gatePower: 1 });
          graph.accumulate('sum', graph.multiply(target, target), states.energy, { routing });
          graph.accumulate('count', values.routing.ids, states.counts);
        },
      );
      const total = Float64Array.from({ length: slots }, (_, slot) =>
        energy.subarray(slot * hidden, (slot + 1) * hidden).reduce((sum, value) => sum + value, 0),
      );
      return { width, gram, cross, energy: total, rows: this.#rowsOf(layer, counts) };
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

  /** The original choices, laid out for the layer's slots. */
  #routing(graph: Graph, values: MoeValues, { slots, groupOf }: Pick<ExpertLayer, 'slots' | 'groupOf'>): Routing {
    return graph.regroup(values.routing, groupOf, slots.length);
  }

  #rowsOf(layer: Pick<ExpertLayer, 'slots' | 'groupOf'>, counts: Float64Array): Float64Array {
    return Float64Array.from(membersOf(layer), (members) =>
      members.reduce((sum, expert) => sum + (counts[expert] as number), 0),
    );
  }
}

export function matrixNames({ gate, up, down }: MlpNames): [string, string, string] {
  return [`${gate}.weight`, `${up}.weight`, `${down}.weight`];
}
