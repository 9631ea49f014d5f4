/** Checks what a run binds and derives the sizes of the symbols. Everything that can be is worked out at compile: this is the hot path. */
import type { HostArray, NativeBinding, NativeProgram } from '../addon.ts';
import { requireObject, show } from '../arguments.ts';
import type { Device } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import { type Dtype, type HostArrays, hostConstructor, requireHostMemory, toHost } from '../tensor/dtype.ts';
import { formatShape } from '../tensor/shape.ts';
import { Tensor } from '../tensor/tensor.ts';

export type Bindable = Tensor | HostArray;

/** One input, state or output of a program. */
export interface Slot {
  readonly name: string;
  /** As messages name it: `inputs.x`, `into.y`. */
  readonly label: string;
  readonly role: 'input' | 'state' | 'output';
  readonly dtype: Dtype;
  readonly array: { new (length: number): HostArrays[Dtype]; readonly name: string };
  /** Dimensions 1 …, and their product. */
  readonly tail: readonly number[];
  readonly width: number;
  /** Dimension 0 is factor × sizes[symbol]; symbol −1: it is `factor`. */
  readonly factor: number;
  readonly symbol: number;
  readonly text: string;
}

/** What a run is given: bindings in order, sizes in order, outputs by name. */
export interface Bound {
  readonly bindings: NativeBinding[];
  readonly sizes: number[];
  readonly outputs: Record<string, Bindable>;
  /** Outputs that were made here. */
  readonly made: Tensor[];
}

export class Binder {
  readonly #device: Device;
  readonly #inputs: Slot[] = [];
  readonly #outputs: Slot[] = [];
  readonly #symbols: readonly string[];
  readonly #inputNames = new Set<string>();
  readonly #outputNames = new Set<string>();

  constructor(device: Device, program: NativeProgram) {
    this.#device = device;
    this.#symbols = [...program.symbols];
    for (const { name, role, dtype, shape } of program.bindings) {
      const [first = 1, ...rest] = shape;
      const tail = rest as number[];
      const fixed = typeof first === 'number';
      const slot: Slot = {
        name,
        label: `${role === 'output' ? 'into' : 'inputs'}.${name}`,
        role,
        dtype: dtype as Dtype,
        array: hostConstructor(dtype as Dtype),
        tail,
        width: tail.reduce((product, dimension) => product * dimension, 1),
        factor: fixed ? first : first.factor,
        symbol: fixed ? -1 : this.#symbols.indexOf(first.symbol),
        text: `${dtype} ${formatShape(shape)}`,
      };
      (role === 'output' ? this.#outputs : this.#inputs).push(slot);
      (role === 'output' ? this.#outputNames : this.#inputNames).add(name);
    }
  }

  /** Throws INVALID_ARGUMENT, SHAPE_MISMATCH, DTYPE_MISMATCH, DISPOSED, OUT_OF_MEMORY, with the binding's name. */
  bind(
    inputs: Readonly<Record<string, Bindable>>,
    into: Readonly<Record<string, Bindable>> | undefined,
    explicit: Readonly<Record<string, number>> | undefined,
  ): Bound {
    requireObject(inputs, 'inputs');
    const sizes = this.#explicitSizes(explicit);
    const bindings: NativeBinding[] = [];
    for (const slot of this.#inputs) bindings.push(this.#bindOne(slot, inputs[slot.name], sizes));
    const outputs: Record<string, Bindable> = {};
    const made: Tensor[] = [];
    const given = into === undefined ? undefined : this.#bindGiven(requireObject(into, 'into'), sizes);
    requireNames(inputs, this.#inputNames, 'inputs');
    for (let i = 0; i < sizes.length; i++) if ((sizes[i] as number) < 0) throw this.#unknownSize(i);
    try {
      for (const slot of this.#outputs) {
        const host = given?.get(slot.name);
        if (host) {
          bindings.push(host);
          outputs[slot.name] = into?.[slot.name] as Bindable;
        } else {
          const tensor = Tensor.empty(this.#device, slot.dtype, [rowsOf(slot, sizes), ...slot.tail]);
          made.push(tensor);
          bindings.push(tensor.native());
          outputs[slot.name] = tensor;
        }
      }
    } catch (error) {
      for (const tensor of made) tensor.dispose();
      throw error;
    }
    return { bindings, sizes, outputs, made };
  }

  #bindGiven(into: Readonly<Record<string, Bindable>>, sizes: number[]): Map<string, NativeBinding> {
    const given = new Map<string, NativeBinding>();
    let count = 0;
    for (const slot of this.#outputs) {
      const target = into[slot.name];
      if (target === undefined) continue;
      given.set(slot.name, this.#bindOne(slot, target, sizes));
      count++;
    }
    if (Object.keys(into).length !== count) requireNames(into, this.#outputNames, 'into');
    return given;
  }

  #bindOne(slot: Slot, value: Bindable | undefined, sizes: number[]): NativeBinding {
    if (value instanceof Tensor) {
      if (value.dtype !== slot.dtype)
        throw mismatch('DTYPE_MISMATCH', slot, `${value.dtype} ${formatShape(value.shape)}`);
      if (value.device !== this.#device)
        throw mismatch('INVALID_ARGUMENT', slot, `a tensor on ${value.device.name}:${value.device.index}`);
      const { shape } = value;
      let fits = shape.length === slot.tail.length + 1;
      for (let i = 0; fits && i < slot.tail.length; i++) fits = shape[i + 1] === slot.tail[i];
      if (!fits || !agree(slot, shape[0] as number, sizes)) throw this.#wrongShape(slot, formatShape(shape), sizes);
      return value.native(slot.label);
    }
    const host = this.#hostOf(slot, value);
    const { length } = host;
    const rows = slot.width === 0 ? 0 : length / slot.width;
    if (slot.width === 0 ? length > 0 : !Number.isInteger(rows) || !agree(slot, rows, sizes)) {
      throw this.#wrongShape(slot, `${length} elements`, sizes);
    }
    return host;
  }

  #hostOf(slot: Slot, value: HostArray | undefined): HostArray {
    const isView = ArrayBuffer.isView(value) && slot.role !== 'state';
    if (isView && value instanceof slot.array) {
      requireHostMemory(value, slot.label);
      return value;
    }
    if (!isView) {
      const expected =
        slot.role === 'state' ? `a tensor ${slot.text}` : `a tensor or ${slot.array.name} (${slot.text})`;
      throw new MoeError('INVALID_ARGUMENT', { argument: slot.label, expected, received: show(value) });
    }
    return toHost(value as HostArrays[Dtype], slot.dtype, slot.label);
  }

  #explicitSizes(explicit: Readonly<Record<string, number>> | undefined): number[] {
    const sizes = new Array<number>(this.#symbols.length).fill(-1);
    if (explicit === undefined) return sizes;
    for (const [symbol, size] of Object.entries(requireObject(explicit, 'sizes'))) {
      const index = this.#symbols.indexOf(symbol);
      if (index < 0 || !Number.isSafeInteger(size) || size < 0) {
        throw new MoeError('INVALID_ARGUMENT', {
          argument: `sizes.${symbol}`,
          expected: index < 0 ? `one of ${this.#symbols.join(', ') || 'no symbols'}` : 'a whole number, not negative',
          received: show(index < 0 ? symbol : size),
        });
      }
      sizes[index] = size;
    }
    return sizes;
  }

  #unknownSize(index: number): MoeError {
    const symbol = this.#symbols[index] as string;
    return new MoeError('INVALID_ARGUMENT', {
      argument: `sizes.${symbol}`,
      expected: `a size for '${symbol}', which no binding tells`,
      received: 'nothing',
    });
  }

  #wrongShape(slot: Slot, received: string, sizes: readonly number[]): MoeError {
    const size = slot.symbol < 0 ? -1 : (sizes[slot.symbol] as number);
    const known = size < 0 ? '' : ` with ${this.#symbols[slot.symbol]} = ${size}`;
    return mismatch('SHAPE_MISMATCH', slot, received, known);
  }
}

/** Whether dimension 0 is `rows`; learns the symbol's size from it where it is not known yet. */
function agree(slot: Slot, rows: number, sizes: number[]): boolean {
  if (slot.symbol < 0) return rows === slot.factor;
  const known = sizes[slot.symbol] as number;
  if (known >= 0) return rows === known * slot.factor;
  const size = rows / slot.factor;
  if (!Number.isInteger(size)) return false;
  sizes[slot.symbol] = size;
  return true;
}

function rowsOf(slot: Slot, sizes: readonly number[]): number {
  return slot.symbol < 0 ? slot.factor : slot.factor * (sizes[slot.symbol] as number);
}

function requireNames(given: Readonly<Record<string, unknown>>, names: ReadonlySet<string>, argument: string): void {
  for (const name in given) {
    if (names.has(name)) continue;
    throw new MoeError('INVALID_ARGUMENT', {
      argument: `${argument}.${name}`,
      expected: `one of ${[...names].join(', ') || 'no names'}`,
      received: `'${name}'`,
    });
  }
}

function mismatch(
  code: 'DTYPE_MISMATCH' | 'SHAPE_MISMATCH' | 'INVALID_ARGUMENT',
  slot: Slot,
  received: string,
  known = '',
): MoeError {
  return new MoeError(code, { argument: slot.label, expected: `${slot.text}${known}`, received });
}
