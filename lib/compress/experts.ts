/** The experts of one layer while they are compressed: what every step takes and gives. */
import type { StoredFloats, StoredForm } from '../checkpoint/stored-matrix.ts';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../tensor/half.ts';
import type { ExpertKind } from '../weight/bank.ts';
import type { ExpertMatrices } from './expert.ts';

/** B·A with A [rank, columns] and B [rows, rank]. */
export interface Factors {
  readonly rank: number;
  readonly a: Float32Array;
  readonly b: Float32Array;
}

/** Whole rows [count, columns], whose outputs `index` names, ascending. */
export interface KeptRows {
  readonly index: Int32Array;
  readonly values: Float32Array;
}

/** At most n of every m inputs: values and their places, [rows, ceil(columns / m)·n]. */
export interface SparseMatrix {
  readonly n: number;
  readonly m: number;
  readonly values: Float32Array;
  readonly index: Uint8Array;
}

/** Codes of a part that a solver chose; without them a part is rounded to the nearest when it is stored. */
export interface Codes {
  readonly form: StoredForm;
  readonly values: Uint8Array;
  readonly scale: Uint8Array;
  readonly offset?: Uint8Array;
  readonly outer?: Uint8Array;
}

/** A matrix [rows, columns] as the sum of its parts, as in docs/weights.md. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly dense?: Float32Array;
  readonly factors?: Factors;
  readonly kept?: KeptRows;
  readonly sparse?: SparseMatrix;
  /** Of dense, kept rows or the sparse part. */
  readonly codes?: { readonly dense?: Codes; readonly kept?: Codes; readonly sparse?: Codes };
}

/** One stored expert: gate and up [width, hidden], down [hidden, width]. */
export interface Expert {
  readonly hidden: number;
  readonly width: number;
  readonly gate?: Matrix;
  readonly up: Matrix;
  readonly down: Matrix;
}

/** How the parts of a bank are stored. */
export interface PartForms {
  readonly dense: StoredForm;
  readonly factors: StoredFloats;
  readonly kept: StoredForm;
  readonly sparse: StoredForm;
}

/** All experts of a layer. */
export interface ExpertLayer {
  readonly hidden: number;
  readonly kind: ExpertKind;
  readonly slots: readonly Expert[];
  /** i32 [original experts] → slot; −1: the expert is gone, which only a router of slots allows. */
  readonly groupOf: Int32Array;
  /** f32 [slots, hidden]: the rows of a router that chooses among slots; absent: the original router stays. */
  readonly router?: Float32Array;
  /** [slots]: the slot whose dense matrices each slot adds its other parts to (delta form). Slots 0 … bases − 1 hold them. */
  readonly baseOf?: Int32Array;
  readonly forms: { readonly up: PartForms; readonly down: PartForms };
  /** f32 [hidden], powers of two: gate and up read the block's input divided by them, as their columns were multiplied (input-scales.ts). */
  readonly inputScales?: Float32Array;
}

/** A matrix that is dense alone. Floats that bf16 has too, as whole rows of such a source are, are held in half the memory. */
export function denseMatrix(rows: number, columns: number, dense: Float32Array): Matrix {
  const bits = exactBf16(dense);
  return bits ? readMatrix({ rows, columns }, () => bf16ToF32(bits)) : { rows, columns, dense };
}

/** A dense matrix held in floats of `form`: 16 bits, where the source has no more, lose what they lose when it is stored. */
export function heldMatrix(rows: number, columns: number, dense: Float32Array, { format }: StoredFloats): Matrix {
  if (format === 'f32') return denseMatrix(rows, columns, dense);
  const bits = format === 'bf16' ? f32ToBf16(dense) : f32ToF16(dense);
  return readMatrix({ rows, columns }, () => (format === 'bf16' ? bf16ToF32(bits) : f16ToF32(bits)));
}

/** Undefined where a float has more than bf16 holds. */
function exactBf16(values: Float32Array): Uint16Array | undefined {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return words.every((word) => (word & 0xffff) === 0) ? f32ToBf16(values) : undefined;
}

/** A matrix whose dense part is read when it is asked for, and again once the collector has taken it: a layer need not be in memory whole. */
export function readMatrix(others: Omit<Matrix, 'dense'>, read: () => Float32Array): Matrix {
  let held: WeakRef<Float32Array> | undefined;
  return {
    ...others,
    get dense() {
      const values = held?.deref() ?? read();
      held = new WeakRef(values);
      return values;
    },
  };
}

/**
 * Ends the job, until which all that matrices were read into stays in memory: for loops over slots that wait for nothing else
 * (`WeakRef` keeps what it refers to until then).
 */
export function endJob(): Promise<void> {
  return new Promise((done) => setImmediate(done));
}

/** An expert of dense matrices. */
export function denseExpert({ width, hidden, gate, up, down }: ExpertMatrices): Expert {
  return {
    width,
    hidden,
    ...(gate && { gate: denseMatrix(width, hidden, gate) }),
    up: denseMatrix(width, hidden, up),
    down: denseMatrix(hidden, width, down),
  };
}

/** The sum of a matrix's parts, [rows, columns]; `base`: the dense matrix of another slot that it adds to. */
export function sumOf(matrix: Matrix, base: Float32Array | undefined = matrix.dense): Float32Array {
  const { rows, columns, factors, kept, sparse } = matrix;
  const sum = base ? Float32Array.from(base) : new Float32Array(rows * columns);
  if (factors) {
    const { rank, a, b } = factors;
    for (let row = 0; row < rows; row++) {
      for (let r = 0; r < rank; r++) {
        const weight = b[row * rank + r] as number;
        for (let column = 0; column < columns; column++) {
          const at = row * columns + column;
          sum[at] = (sum[at] as number) + weight * (a[r * columns + column] as number);
        }
      }
    }
  }
  kept?.index.forEach((row, at) => {
    for (let column = 0; column < columns; column++) {
      const to = row * columns + column;
      sum[to] = (sum[to] as number) + (kept.values[at * columns + column] as number);
    }
  });
  if (sparse) {
    const { n, m, values, index } = sparse;
    const stride = Math.ceil(columns / m) * n;
    for (let at = 0; at < rows * stride; at++) {
      const row = Math.floor(at / stride);
      const column = Math.floor((at % stride) / n) * m + (index[at] as number);
      if (column < columns)
        sum[row * columns + column] = (sum[row * columns + column] as number) + (values[at] as number);
    }
  }
  return sum;
}

/** A slot's matrices as dense ones. */
export function denseMatrices(layer: ExpertLayer, slot: number): ExpertMatrices {
  const expert = layer.slots[slot] as Expert;
  const base = layer.baseOf && (layer.slots[layer.baseOf[slot] as number] as Expert);
  const dense = (matrix: 'gate' | 'up' | 'down'): Float32Array | undefined => {
    const own = expert[matrix];
    return own && (base ? sumOf(own, base[matrix]?.dense) : isDense(own) ? own.dense : sumOf(own));
  };
  return {
    hidden: expert.hidden,
    width: expert.width,
    gate: dense('gate'),
    up: dense('up') as Float32Array,
    down: dense('down') as Float32Array,
  };
}

function isDense({ dense, factors, kept, sparse }: Matrix): boolean {
  return dense !== undefined && !factors && !kept && !sparse;
}

/** Dense experts, one a slot, all stored alike. */
export function originalLayer(experts: readonly ExpertMatrices[], kind: ExpertKind, form: StoredFloats): ExpertLayer {
  return layerOf(experts.map(denseExpert), kind, form);
}

/** Experts in slots of their own. */
export function layerOf(slots: readonly Expert[], kind: ExpertKind, form: StoredFloats): ExpertLayer {
  const forms = { dense: form, factors: form, kept: form, sparse: form };
  return {
    hidden: (slots[0] as Expert).hidden,
    kind,
    slots,
    groupOf: Int32Array.from(slots.keys()),
    forms: { up: forms, down: forms },
  };
}
