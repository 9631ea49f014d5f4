/** Assembles a graph of operations for one device; `compile` makes it a program. */
import type { Device } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import type { Dtype } from '../tensor/dtype.ts';
import type { Shape } from '../tensor/shape.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { ExpertBank } from '../weight/bank.ts';
import type { Weight } from '../weight/weight.ts';
import { Assembly, requireName } from './assembly.ts';
import { type ExpertsOptions, experts } from './experts.ts';
import { type AccumulateOptions, accumulate, type Statistic } from './ops/accumulate.ts';
import { type AttentionOptions, attention } from './ops/attention.ts';
import { type CombineOptions, combine } from './ops/combine.ts';
import { type ConvolveOptions, convolve } from './ops/convolve.ts';
import { type EmbedOptions, embed } from './ops/embed.ts';
import { type LinearOptions, linear } from './ops/linear.ts';
import { type MapFunction, type MapOptions, map } from './ops/map.ts';
import { addNorm, type NormOptions, norm } from './ops/norm.ts';
import { type RotateOptions, rotate } from './ops/rotate.ts';
import { type RouteOptions, regroup, route } from './ops/route.ts';
import { type Score, type ScoreOptions, score } from './ops/score.ts';
import { take } from './ops/take.ts';
import { Program } from './program.ts';
import type { Routing } from './routing.ts';
import type { Value } from './value.ts';

/**
 * Every method adds one node, whose dtypes and shapes are checked now: a mistake throws at the line that made it
 * (SHAPE_MISMATCH, DTYPE_MISMATCH, INVALID_ARGUMENT, DISPOSED, each with the argument's name). T is the number of tokens, a
 * symbol; "float" is f32, f16 or bf16. native/include/moe/operations.h defines each operation to the bit.
 *
 * @example
 * const g = new Graph(device);
 * const x = g.input('x', 'f32', ['tokens', 64]);
 * const program = g.output('y', g.linear(x, weight, { activation: 'relu' })).compile({ tokens: 512 });
 */
export class Graph<O extends string = never> {
  readonly device: Device;
  readonly #assembly: Assembly;
  #compiled = false;

  constructor(device: Device) {
    this.device = device;
    this.#assembly = new Assembly(device);
  }

  /** A value that each run binds: a tensor or a host array. */
  input(name: string, dtype: Dtype, shape: Shape): Value {
    return this.#open().bound('input', name, dtype, shape);
  }

  /** A tensor of the caller that each run binds, reads and writes: a cache, a statistic. */
  state(name: string, dtype: Dtype, shape: Shape): Value {
    return this.#open().bound('state', name, dtype, shape);
  }

  /** A tensor that is the same at every run. Keep it until the program is disposed. */
  constant(tensor: Tensor): Value {
    return this.#open().constant(tensor);
  }

  /** Names a result of every run; of the graph that comes back, the program's type knows the name. */
  output<N extends string>(name: N, value: Value): Graph<O | N> {
    const assembly = this.#open();
    assembly.native.output(requireName(name), assembly.idOf(value, 'value'));
    return this as unknown as Graph<O | N>;
  }

  /**
   * Plans the memory and ends assembly. `maxSizes` bounds each symbol: `{ tokens: 512 }`.
   * Throws INVALID_ARGUMENT (a symbol without a bound), UNSUPPORTED, OUT_OF_MEMORY, DISPOSED.
   */
  compile(maxSizes: Readonly<Record<string, number>> = {}): Program<O> {
    const { native, owned } = this.#open();
    const program = new Program<O>(this.device, native.compile(maxSizes), owned);
    this.#compiled = true;
    return program;
  }

  /** Rows of a table: ids i32 [T], table float [V, H] → float [T, H]. */
  embed(ids: Value, table: Tensor | Value, options?: EmbedOptions): Value {
    return embed(this.#open(), ids, table, options);
  }

  /** RMS or layer norm of x float [T, W]; weight float [width], or none. */
  norm(x: Value, weight: Tensor | undefined, options?: NormOptions): Value {
    return norm(this.#open(), x, weight, options);
  }

  /** sum = x + residual and y = norm(sum), both float [T, W]. */
  addNorm(x: Value, residual: Value, weight: Tensor | undefined, options?: NormOptions): { y: Value; sum: Value } {
    return addNorm(this.#open(), x, residual, weight, options);
  }

  /** activation(x·Wᵀ + bias) + residual; dense, or each row of a routing through its slot. */
  linear(x: Value, weight: Weight, options?: LinearOptions): Value {
    return linear(this.#open(), x, weight, options);
  }

  /** Rotary positions on x float [T, heads·D]; frequencies f32 [F]. */
  rotate(x: Value, positions: Value, frequencies: Tensor, options: RotateOptions): Value {
    return rotate(this.#open(), x, positions, frequencies, options);
  }

  /** Ragged-batch attention over a paged cache → float [T, heads·D]. */
  attention(options: AttentionOptions): Value {
    return attention(this.#open(), options);
  }

  /** Elementwise function of a float [T, W] and perhaps b [T, W] or [T, 1]. */
  map(fn: MapFunction, a: Value, b?: Value, options?: MapOptions): Value {
    return map(this.#open(), fn, a, b, options);
  }

  /** a + b. */
  add(a: Value, b: Value): Value {
    return map(this.#open(), 'add', a, b);
  }

  /** a · b, element by element; b [T, 1] is spread over the row. */
  multiply(a: Value, b: Value): Value {
    return map(this.#open(), 'multiply', a, b);
  }

  /** min(max(a, low), high). */
  clamp(a: Value, low: number, high: number): Value {
    return map(this.#open(), 'clamp', a, undefined, { alpha: low, beta: high });
  }

  /** Chooses experts by logits float [T, E] (or takes given ids) and lays out their rows. */
  route(logits: Value | undefined, options: RouteOptions): Routing {
    return route(this.#open(), logits, options);
  }

  /** The same choices laid out for another grouping of the experts. */
  regroup(
    routing: Routing,
    groupOf: Tensor | Int32Array | undefined,
    slots: number,
    options?: { coalesce?: boolean },
  ): Routing {
    return regroup(this.#open(), routing, groupOf, slots, options);
  }

  /** Sums rows float [R, H] of a routing back to tokens, weighted by their gates → float [T, H]. */
  combine(rows: Value, routing: Routing, options?: CombineOptions): Value {
    return combine(this.#open(), rows, routing, options);
  }

  /** The experts of a layer: linear, linear, combine; x float [T, H] → as x. */
  experts(x: Value, routing: Routing, bank: ExpertBank, options?: ExpertsOptions): Value {
    return experts(this.#open(), x, routing, bank, options);
  }

  /** Rows of x by index i32 [M]. */
  take(x: Value, index: Value): Value {
    return take(this.#open(), x, index);
  }

  /** Log-probability of given ids and the most likely ones, from logits float [T, V]. */
  score<S extends ScoreOptions>(logits: Value, options?: S): Score<S> {
    return score(this.#open(), logits, options);
  }

  /** Adds a statistic of each run into a state f64. */
  accumulate(statistic: Statistic, a: Value, state: Value, options?: AccumulateOptions): void {
    accumulate(this.#open(), statistic, a, state, options);
  }

  /** Short causal convolution a channel, its history in a state f32. */
  convolve(
    x: Value,
    weight: Tensor,
    sequence: Value,
    positions: Value,
    state: Value,
    options?: ConvolveOptions,
  ): Value {
    return convolve(this.#open(), x, weight, sequence, positions, state, options);
  }

  #open(): Assembly {
    if (!this.#compiled) return this.#assembly;
    throw new MoeError('INVALID_ARGUMENT', {
      argument: 'graph',
      expected: 'calls before compile()',
      received: 'one after it',
    });
  }
}
