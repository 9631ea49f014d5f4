/** Refits what makes the hidden rows, gate and up, to the output of the whole block. */
import { addon } from '../../addon.ts';
import type { StoredFloats } from '../../checkpoint/stored-matrix.ts';
import type { MapFunction } from '../../graph/ops/map.ts';
import type { Value } from '../../graph/value.ts';
import { Weight } from '../../weight/weight.ts';
import { transpose } from '../expert.ts';
import { type Expert, type ExpertLayer, heldMatrix } from '../experts.ts';
import type { InputMoments, LayerContext } from '../layer-context.ts';
import { type LayerPart, partsOf, type SlotSums, widestOf } from '../layer-parts.ts';
import type { ObservedSlots, RoutedObserved } from '../slot-observer.ts';
import { conjugateGradients } from './conjugate-gradients.ts';
import { Metric } from './metric.ts';

/** A step is halved so often where the error does not fall. */
const mostHalvings = 3;

/** Half the distance over which an activation's slope is measured. */
const slopeDistance = 1e-2;

/** Of what is looked at together a run of slots may take so many times as much: each run costs passes of its own. */
const runShare = 4;

/** A layer whose slots may be replaced where they are, so that the old ones go. */
export interface OpenLayer extends ExpertLayer {
  readonly slots: Expert[];
}

/**
 * One Gauss-Newton step of the kept rows of gate and up towards the original block's output, all slots together, down as it is:
 * p = argmin Σ_t ‖missing_t − J_t·p‖² + ‖p‖²_R, J the derivative of the output by the rows. These linear least squares are solved by
 * conjugate gradients on the normal equations, preconditioned by the blocks that JᵀJ would have if slopes and inputs were independent:
 * the second moment of each slot's inputs times a number for each row. R is a ridge in that metric (Levenberg's damping), so that rows which
 * few tokens reach stay where they are. The step is halved until the error falls, and not taken where it does not: what the layer is
 * short of on these inputs never grows.
 *
 * A layer that does not fit in memory so moves in runs of slots, each towards what the others, moved or not, leave to it (block
 * Gauss-Seidel).
 *
 * @param layer of dense matrices, taken as exact as they are, not as they will be stored; its slots are replaced
 * @returns Σ ‖missing‖² of the whole layer in the end
 */
export async function refitHidden(layer: OpenLayer, context: LayerContext): Promise<number> {
  const exact = { ...layer, forms: { up: f32Parts, down: f32Parts } };
  const parts = partsOf(exact, slotBytes(exact), runShare * context.partBytes);
  const moments = context.inputMoments(exact, 2);
  let missing = parts.length > 1 ? await context.shortfall(exact, parts) : undefined;
  let left = 0;
  for (const part of parts) {
    await addon().releaseMemory();
    const aim = missing && (await context.runAim(exact, part, missing));
    const observe: Observe = (shapes, build, o) => context.observe(exact, shapes, build, { part, aim, ...o });
    const { error, step } = await stepOf(part, context, observe, moments);
    left = error;
    for (let halving = 0, share = 1; halving <= mostHalvings; halving++, share /= 2) {
      const moved = movedBy(part.layer, layer.forms.up.factors, step, share);
      const after = missing?.map((values) => values.slice());
      const found = await errorOf(moved, context, observe, after);
      if (found >= error) continue;
      layer.slots.splice(part.first, moved.slots.length, ...moved.slots);
      missing = after;
      left = found;
      break;
    }
  }
  return missing ? energyOf(missing) : left;
}

const f32 = { format: 'f32' } as const;
const f32Parts = { dense: f32, factors: f32, kept: f32, sparse: f32 };

/** {@link LayerContext.observe} of the slots of a run. */
type Observe = <S extends string>(
  shapes: Readonly<Record<S, readonly number[]>>,
  build: (observed: RoutedObserved, states: Readonly<Record<S, Value>>) => void,
  o?: Pick<ObservedSlots, 'into'>,
) => Promise<Readonly<Record<S, Float64Array>>>;

/**
 * Bytes of a slot while it moves: in f32 the banks of {@link HiddenRows}, a direction, four vectors of its rows and the inverse of a second
 * moment, in f64 a bank of sums and what is read of it.
 */
function slotBytes(layer: ExpertLayer): number {
  const matrix = widestOf(layer) * layer.hidden;
  const rows = (layer.slots[0]?.gate ? 2 : 1) * matrix;
  return 4 * (6 * rows + 2 * matrix + layer.hidden ** 2) + 8 * 2 * rows;
}

/** Σ ‖missing‖² where a run stands, and its step from there. */
async function stepOf(
  part: LayerPart,
  context: LayerContext,
  observe: Observe,
  moments: SlotSums<InputMoments>,
): Promise<{ error: number; step: Float32Array }> {
  const block = await HiddenRows.load(part, context, observe);
  const metric = new Metric(context.stream.device, part.layer.hidden);
  try {
    const { error, gradient } = await block.linearize(metric, moments);
    const step = await conjugateGradients(
      gradient,
      (r, into) => metric.solve(r, into),
      async (p, into) => {
        await block.curvature(p, into);
        metric.addRidge(p, into);
      },
    );
    return { error, step };
  } finally {
    metric.dispose();
    block.dispose();
  }
}

/** The slots of a run as banks of which the derivatives can be had. Vectors are the rows of all gates, then of all ups. */
class HiddenRows {
  readonly #layer: ExpertLayer;
  readonly #first: number;
  readonly #context: LayerContext;
  readonly #observe: Observe;
  readonly #gate: Weight | undefined;
  readonly #up: Weight;
  readonly #down: Weight;
  readonly #back: Weight;

  private constructor(
    { first, layer }: LayerPart,
    context: LayerContext,
    observe: Observe,
    [up, down, back, gate]: readonly Weight[],
  ) {
    this.#layer = layer;
    this.#first = first;
    this.#context = context;
    this.#observe = observe;
    this.#gate = gate;
    this.#up = up as Weight;
    this.#down = down as Weight;
    this.#back = back as Weight;
  }

  static async load(part: LayerPart, context: LayerContext, observe: Observe): Promise<HiddenRows> {
    const { slots, hidden } = part.layer;
    const { device } = context.stream;
    const widths = slots.map(({ width }) => width);
    const widest = Math.max(...widths);
    const rows = { in: hidden, out: widest, outOf: widths, slots: slots.length, format: f32 };
    const columns = { in: widest, inOf: widths, out: hidden, slots: slots.length, format: f32 };
    const weights: Weight[] = [];
    try {
      const dense = (which: 'gate' | 'up' | 'down') => slots.map((slot) => slot[which]?.dense as Float32Array);
      weights.push(await Weight.from(device, rows, joined(dense('up'))));
      weights.push(await Weight.from(device, columns, joined(dense('down'))));
      const back = dense('down').map((down, slot) => transpose(down, hidden, widths[slot] as number));
      weights.push(await Weight.from(device, rows, joined(back)));
      if (slots[0]?.gate) weights.push(await Weight.from(device, rows, joined(dense('gate'))));
      return new HiddenRows(part, context, observe, weights);
    } catch (error) {
      for (const weight of weights) weight.dispose();
      throw error;
    }
  }

  dispose(): void {
    for (const weight of [this.#gate, this.#up, this.#down, this.#back]) weight?.dispose();
  }

  /** Σ ‖missing‖² and Jᵀ·missing where the run stands, and the metric there. */
  async linearize(metric: Metric, moments: SlotSums<InputMoments>): Promise<{ error: number; gradient: Float32Array }> {
    const { slots, hidden } = this.#layer;
    const widest = this.#up.spec.out;
    const grams = [slots.length, widest, hidden];
    const shapes = {
      error: [hidden],
      gates: [slots.length, widest],
      ...(this.#gate && { gate: grams, gateSlope: [slots.length, widest] }),
      up: grams,
      upSlope: [slots.length, widest],
    } as Record<'error' | 'gates' | 'gate' | 'gateSlope' | 'up' | 'upSlope', number[]>;
    const sums = await this.#observe(shapes, (observed, states) => {
      const { graph, routing } = observed;
      const { given, slopes } = this.#forward(observed);
      const missing = this.#context.missing(observed, graph.linear(given, this.#down, { routing, gather: false }));
      graph.accumulate('sum', graph.multiply(missing, missing), states.error);
      const squared = { routing, gatePower: 2 } as const;
      graph.accumulate('sum', graph.clamp(given, 1, 1), states.gates, squared);
      for (const [name, slope] of slopes) {
        graph.accumulate('sum', graph.multiply(slope, slope), states[`${name}Slope`], squared);
      }
      this.#backward(observed, slopes, missing, states);
    });
    const total = sums.error.reduce((sum, value) => sum + value, 0);
    const rows = slots.reduce((sum, { width }) => sum + width, 0);
    const gradient = new Float32Array((this.#gate ? 2 : 1) * rows * hidden);
    this.#pack(sums, gradient);
    await this.#weigh(metric, sums, moments);
    return { error: total, gradient };
  }

  /** JᵀJ·p. */
  async curvature(p: Float32Array, into: Float32Array): Promise<void> {
    const { device } = this.#context.stream;
    const { spec } = this.#up;
    const { slots, hidden } = this.#layer;
    const names = this.#gate ? (['gate', 'up'] as const) : (['up'] as const);
    const directions: Weight[] = [];
    try {
      for (const at of names.keys()) {
        const size = p.length / names.length;
        directions.push(await Weight.from(device, spec, p.subarray(at * size, (at + 1) * size)));
      }
      const shapes = Object.fromEntries(names.map((name) => [name, [slots.length, spec.out, hidden]])) as Record<
        'gate' | 'up',
        number[]
      >;
      const sums = await this.#observe(shapes, (observed, states) => {
        const { graph, values, routing } = observed;
        const { slopes } = this.#forward(observed);
        const changes = slopes.map(([, slope], at) =>
          graph.multiply(slope, graph.linear(values.input, directions[at] as Weight, { routing })),
        );
        const change = changes.reduce((a, b) => graph.add(a, b));
        const moved = graph.combine(graph.linear(change, this.#down, { routing, gather: false }), routing);
        this.#backward(observed, slopes, moved, states);
      });
      this.#pack(sums, into);
    } finally {
      for (const direction of directions) direction.dispose();
    }
  }

  /** The hidden rows, and their derivative by what gate and up give. */
  #forward({ graph, values, routing }: RoutedObserved): { given: Value; slopes: (readonly ['gate' | 'up', Value])[] } {
    const { kind } = this.#layer;
    const activation: MapFunction = kind === 'swiglu' ? 'silu' : kind === 'geglu' ? 'gelu_tanh' : kind;
    const up = graph.linear(values.input, this.#up, { routing });
    const z = this.#gate ? graph.linear(values.input, this.#gate, { routing }) : up;
    const f = graph.map(activation, z);
    const at = (distance: number): Value => graph.map(activation, graph.map('scale', z, undefined, { beta: distance }));
    const part = 0.5 / slopeDistance;
    const slope = graph.map('add', at(slopeDistance), at(-slopeDistance), { alpha: part, beta: -part });
    if (!this.#gate) return { given: f, slopes: [['up', slope]] };
    return {
      given: graph.multiply(f, up),
      slopes: [
        ['gate', graph.multiply(slope, up)],
        ['up', f],
      ],
    };
  }

  /** Adds Jᵀ·v, for v [tokens, hidden] at the block's output. */
  #backward(
    { graph, values, routing }: RoutedObserved,
    slopes: readonly (readonly ['gate' | 'up', Value])[],
    v: Value,
    states: Readonly<Record<'gate' | 'up', Value>>,
  ): void {
    const x = graph.take(values.input, routing.tokenOf);
    const felt = graph.linear(v, this.#back, { routing });
    for (const [name, slope] of slopes) {
      graph.accumulate('gram', graph.multiply(felt, slope), states[name], { b: x, routing, gatePower: 1 });
    }
  }

  async #weigh(
    metric: Metric,
    sums: Readonly<Record<'gates' | 'gateSlope' | 'upSlope', Float64Array>>,
    moments: SlotSums<InputMoments>,
  ): Promise<void> {
    const { slots, hidden } = this.#layer;
    const widest = this.#up.spec.out;
    const slopes = this.#gate ? [sums.gateSlope, sums.upSlope] : [sums.upSlope];
    const weight: number[][] = slopes.map(() => []);
    for (const [slot, { width, down }] of slots.entries()) {
      await metric.add(width, await moments.of(this.#first + slot));
      const norms = columnEnergies(down.dense as Float32Array, hidden, width);
      const gates = sums.gates[slot * widest] as number;
      for (const [at, slope] of slopes.entries()) {
        for (let j = 0; j < width; j++) {
          const mean = gates > 0 ? (slope[slot * widest + j] as number) / gates : 0;
          weight[at]?.push((norms[j] as number) * mean);
        }
      }
    }
    metric.weigh(Float64Array.from(weight.flat()));
  }

  /** The states' rows without those beyond each slot's width. */
  #pack(sums: Readonly<Record<'gate' | 'up', Float64Array>>, into: Float32Array): void {
    const { slots, hidden } = this.#layer;
    const stride = this.#up.spec.out * hidden;
    let begin = 0;
    for (const state of this.#gate ? [sums.gate, sums.up] : [sums.up]) {
      for (const [slot, { width }] of slots.entries()) {
        into.set(state.subarray(slot * stride, slot * stride + width * hidden), begin);
        begin += width * hidden;
      }
    }
  }
}

/** The layer with a share of the step added to its rows, which are held as `form`. */
function movedBy(layer: ExpertLayer, form: StoredFloats, step: Float32Array, share: number): ExpertLayer {
  let begin = 0;
  const moved = (which: 'gate' | 'up'): (Float32Array | undefined)[] =>
    layer.slots.map((slot) => {
      const dense = slot[which]?.dense;
      if (!dense) return undefined;
      const from = begin;
      begin += dense.length;
      return dense.map((value, at) => value + share * (step[from + at] as number));
    });
  const [gates, ups] = [moved('gate'), moved('up')];
  const slots = layer.slots.map((slot, at): Expert => {
    const { width, hidden } = slot;
    const gate = gates[at];
    return {
      ...slot,
      ...(gate && { gate: heldMatrix(width, hidden, gate, form) }),
      up: heldMatrix(width, hidden, ups[at] as Float32Array, form),
    };
  });
  return { ...layer, slots };
}

/** The sum of squares of what a run, moved, is short of; `missing`: what all slots are short of, which then takes its place. */
async function errorOf(
  layer: ExpertLayer,
  context: LayerContext,
  observe: Observe,
  missing: readonly Float32Array[] | undefined,
): Promise<number> {
  const { error } = await context.withRows(layer, (rowsIn) =>
    observe(
      { error: [layer.hidden] },
      (observed, states) => {
        const { graph } = observed;
        const short = context.missing(observed, rowsIn(observed, observed.routing));
        graph.accumulate('sum', graph.multiply(short, short), states.error);
        if (missing) graph.output('missing', short);
      },
      missing && { into: { missing } },
    ),
  );
  return error.reduce((sum, value) => sum + value, 0);
}

/** ‖column‖² of each column. */
function columnEnergies(matrix: Float32Array, rows: number, columns: number): Float64Array {
  const energies = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    for (let j = 0; j < columns; j++) {
      energies[j] = (energies[j] as number) + (matrix[row * columns + j] as number) ** 2;
    }
  }
  return energies;
}

function energyOf(arrays: readonly Float32Array[]): number {
  let sum = 0;
  for (const values of arrays) for (let at = 0; at < values.length; at++) sum += (values[at] as number) ** 2;
  return sum;
}

function joined(matrices: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(matrices.reduce((sum, { length }) => sum + length, 0));
  let begin = 0;
  for (const matrix of matrices) {
    all.set(matrix, begin);
    begin += matrix.length;
  }
  return all;
}
