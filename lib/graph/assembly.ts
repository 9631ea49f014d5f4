/** What every operation of a graph needs: the native graph, its constants and weights, and the adding of a node. */
import type { NativeDimension, NativeGraph } from '../addon.ts';
import { invalid } from '../arguments.ts';
import { type Device, requireDevice } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import { type Dtype, hostConstructor } from '../tensor/dtype.ts';
import { nativeShape, type Shape } from '../tensor/shape.ts';
import { Tensor } from '../tensor/tensor.ts';
import { Weight } from '../weight/weight.ts';
import { Value } from './value.ts';

/** Operands by name, in the order of operations.h; undefined: absent. */
export type Operands = Readonly<Record<string, Value | Weight | Tensor | undefined>>;

/** @internal The state of a graph that is being assembled. The native core checks dtypes and shapes as nodes are added. */
export class Assembly {
  readonly device: Device;
  /** Small constants that the graph made itself; the program frees them. */
  readonly owned: Tensor[] = [];
  readonly #native: NativeGraph;
  readonly #constants = new Map<Tensor, Value>();
  readonly #weights = new Map<Weight, number>();

  constructor(device: Device) {
    this.device = requireDevice(device);
    this.#native = device.native.createGraph();
  }

  get native(): NativeGraph {
    // A disposed device throws here, before the native side is asked.
    this.device.native;
    return this.#native;
  }

  bound(role: 'input' | 'state', name: string, dtype: Dtype, shape: Shape): Value {
    requireName(name);
    const dimensions = nativeShape(shape);
    hostConstructor(dtype);
    return new Value(this, this.native[role](name, dtype, dimensions), dtype, dimensions);
  }

  constant(tensor: Tensor, argument = 'tensor'): Value {
    if (!(tensor instanceof Tensor)) throw invalid(argument, 'a Tensor', tensor);
    const known = this.#constants.get(tensor);
    if (known) return known;
    this.#requireDevice(tensor.device, argument);
    const shape: NativeDimension[] = [...tensor.shape];
    const id = this.native.constant(tensor.native(argument), tensor.dtype, tensor.shape);
    const value = new Value(this, id, tensor.dtype, shape);
    this.#constants.set(tensor, value);
    return value;
  }

  /** A small i32 constant [n] of the graph's own. */
  indices(values: Int32Array): Tensor<'i32'> {
    const tensor = Tensor.ownedSync(this.device, values, { dtype: 'i32', shape: [values.length] });
    this.owned.push(tensor);
    return tensor;
  }

  /** Adds a node and returns its outputs; undefined where the operands rule one out. */
  node(operation: string, operands: Operands, attributes: Record<string, unknown>): (Value | undefined)[] {
    const inputs = Object.entries(operands).map(([argument, operand]) => this.#operand(argument, operand));
    return this.native.node(operation, inputs, attributes).map((id) => (id < 0 ? undefined : this.#inner(id)));
  }

  /** As `node`, for an operation with one output. */
  single(operation: string, operands: Operands, attributes: Record<string, unknown>): Value {
    return required(this.node(operation, operands, attributes)[0], operation);
  }

  idOf(value: Value, argument: string): number {
    if (!(value instanceof Value)) throw invalid(argument, 'a value of this graph', value);
    if (value.owner === this) return value.id;
    const received = 'a value of another graph';
    throw new MoeError('INVALID_ARGUMENT', { argument, expected: 'a value of this graph', received });
  }

  /**
   * The dtype that a result takes from an operand; f32 for an operand of integers, which the core refuses by name.
   * Throws INVALID_ARGUMENT for what is no value of this graph or tensor.
   */
  dtypeOf(operand: Value | Tensor, argument: string): Dtype {
    if (!(operand instanceof Tensor)) this.idOf(operand, argument);
    const { dtype } = operand;
    return dtype === 'f16' || dtype === 'bf16' ? dtype : 'f32';
  }

  #operand(argument: string, operand: Value | Weight | Tensor | undefined): number {
    if (operand === undefined) return -1;
    if (operand instanceof Tensor) return this.constant(operand, argument).id;
    if (!(operand instanceof Weight)) return this.idOf(operand, argument);
    const known = this.#weights.get(operand);
    if (known !== undefined) return known;
    this.#requireDevice(operand.device, argument);
    const id = this.native.weight(operand.native(argument));
    this.#weights.set(operand, id);
    return id;
  }

  #inner(id: number): Value {
    const { dtype, shape } = this.native.type(id);
    return new Value(this, id, dtype as Dtype, shape);
  }

  #requireDevice(device: Device, argument: string): void {
    if (device === this.device) return;
    throw new MoeError('INVALID_ARGUMENT', {
      argument,
      expected: `one on the graph's own device (${this.device.name}:${this.device.index})`,
      received: `one on another (${device.name}:${device.index})`,
    });
  }
}

/** @internal Inputs and outputs are properties of plain objects, where this name is none. Throws INVALID_ARGUMENT. */
export function requireName(name: string): string {
  if (typeof name !== 'string' || name === '__proto__') throw invalid('name', 'a name', name);
  return name;
}

/** @internal An output that the operands do not rule out. */
export function required(value: Value | undefined, operation: string): Value {
  if (value) return value;
  throw new MoeError('INTERNAL', { argument: operation, expected: 'an output', received: 'none' });
}
