/** int4 codes under dual-grained scales, searched in two phases (DGQ, arXiv 2310.04836, section 3.2), without zero points. */
import type { StoredIntegers } from '../../checkpoint/stored-matrix.ts';
import { f16ToF32, f32ToF16 } from '../../tensor/half.ts';
import type { Codes } from '../experts.ts';
import { emptyCodes, rowErrors } from './rounding.ts';

/** |scale · code|: what an 8-bit integer of either sign holds. */
const largestInteger = 127;

/** Scales of a group that are tried, as shares of the one under which 7 is the largest weight; below 7/8 some are cut. */
const groupShares = Array.from({ length: 14 }, (_, at) => 1.02 - 0.025 * at);

/** Outer scales that are tried, as shares of the one under which the row's largest weight is 127. */
const rowShares = Array.from({ length: 20 }, (_, at) => 1.02 - 0.04 * at);

/** What is tried, a value for each row, and the best of it so far. */
class BestRows {
  readonly scales: Float64Array;
  readonly #errors: Float64Array;

  constructor(rows: number) {
    this.scales = new Float64Array(rows);
    this.#errors = new Float64Array(rows).fill(Number.POSITIVE_INFINITY);
  }

  take(scales: Float64Array, errors: Float64Array): void {
    errors.forEach((error, row) => {
      if (!(error < (this.#errors[row] as number))) return;
      this.#errors[row] = error;
      this.scales[row] = scales[row] as number;
    });
  }
}

/**
 * First the scale of every group on its own, by the error of what the group gives; then the outer scale of every row, in whole parts of
 * which the groups' scales are then rounded, by the error of the row's output. Codes are cut to where |scale · code| ≤ 127.
 *
 * @param weight f32 [rows, columns]
 * @param moment Σ x·xᵀ over the inputs, f64 [columns, columns]
 */
export async function dualCodes(
  weight: Float32Array,
  moment: Float64Array,
  rows: number,
  columns: number,
  form: StoredIntegers,
): Promise<Codes> {
  const size = form.groupSize === 'channel' ? columns : form.groupSize;
  const groups = Math.ceil(columns / size);
  const scales = new Float64Array(rows * groups);
  for (let group = 0; group < groups; group++) {
    const [begin, end] = [group * size, Math.min(columns, (group + 1) * size)];
    const best = await groupScales(
      columnsOf(weight, rows, columns, begin, end),
      blockOf(moment, columns, begin, end),
      rows,
    );
    best.forEach((scale, row) => {
      scales[row * groups + group] = scale;
    });
  }
  const largest = largestOf(weight, rows);
  const best = new BestRows(rows);
  for (const share of rowShares) {
    const outer = largest.map((value) => stored((share * value) / largestInteger, form));
    const grid = { weight, outer, scales, rows, columns, size, groups };
    const error = new Float32Array(weight.length);
    eachCode(grid, (at, code, step) => {
      error[at] = code * step - (weight[at] as number);
    });
    best.take(outer, await rowErrors(error, moment, rows, columns));
  }
  return encode({ weight, outer: best.scales, scales, rows, columns, size, groups }, form);
}

async function groupScales(weight: Float32Array, moment: Float64Array, rows: number): Promise<Float64Array> {
  const columns = weight.length / rows;
  const largest = largestOf(weight, rows);
  const best = new BestRows(rows);
  for (const share of groupShares) {
    const scales = largest.map((value) => (share * value) / 7);
    const error = weight.map((value, at) => {
      const scale = scales[Math.floor(at / columns)] as number;
      return scale === 0 ? 0 : clip(Math.round(value / scale), -8, 7) * scale - value;
    });
    best.take(scales, await rowErrors(error, moment, rows, columns));
  }
  return best.scales;
}

interface Grid {
  readonly weight: Float32Array;
  /** [rows] */
  readonly outer: Float64Array;
  /** [rows, groups], not yet whole. */
  readonly scales: Float64Array;
  readonly rows: number;
  readonly columns: number;
  readonly size: number;
  readonly groups: number;
}

/** The scale of a group in outer scales, 1 … 127. */
function wholeScale({ outer, scales, groups }: Grid, row: number, group: number): number {
  return clip(Math.round((scales[row * groups + group] as number) / (outer[row] as number)), 1, largestInteger);
}

/** Every weight's code and the step that it counts. */
function eachCode(grid: Grid, visit: (at: number, code: number, step: number) => void): void {
  const { weight, outer, rows, columns, size, groups } = grid;
  for (let row = 0; row < rows; row++) {
    if (outer[row] === 0) continue;
    for (let group = 0; group < groups; group++) {
      const whole = wholeScale(grid, row, group);
      const limit = Math.floor(largestInteger / whole);
      const step = whole * (outer[row] as number);
      const end = row * columns + Math.min(columns, (group + 1) * size);
      for (let at = row * columns + group * size; at < end; at++) {
        visit(at, clip(Math.round((weight[at] as number) / step), -Math.min(8, limit), Math.min(7, limit)), step);
      }
    }
  }
}

function encode(grid: Grid, form: StoredIntegers): Codes {
  const { outer, rows, columns, groups } = grid;
  const codes = emptyCodes(rows, columns, form);
  const stride = Math.ceil(columns / 2);
  eachCode(grid, (at, code) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    const byte = row * stride + (column >> 1);
    codes.values[byte] = (codes.values[byte] as number) | ((code & 15) << (4 * (column & 1)));
  });
  outer.forEach((scale, row) => {
    for (let group = 0; group < groups; group++) {
      codes.scale[row * groups + group] = scale === 0 ? 1 : wholeScale(grid, row, group);
    }
  });
  const floats = Float32Array.from(outer);
  const bytes = form.scale === 'f16' ? f32ToF16(floats) : floats;
  return { ...codes, outer: new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) };
}

/** A scale as a reader will have it. */
function stored(scale: number, { scale: dtype }: StoredIntegers): number {
  const value = Float32Array.of(scale);
  return (dtype === 'f16' ? f16ToF32(f32ToF16(value)) : value)[0] as number;
}

/** The largest |w| of each row. */
function largestOf(weight: Float32Array, rows: number): Float64Array {
  const columns = weight.length / rows;
  const largest = new Float64Array(rows);
  weight.forEach((value, at) => {
    const row = Math.floor(at / columns);
    largest[row] = Math.max(largest[row] as number, Math.abs(value));
  });
  return largest;
}

function columnsOf(matrix: Float32Array, rows: number, columns: number, begin: number, end: number): Float32Array {
  const part = new Float32Array(rows * (end - begin));
  for (let row = 0; row < rows; row++) {
    part.set(matrix.subarray(row * columns + begin, row * columns + end), row * (end - begin));
  }
  return part;
}

function blockOf(moment: Float64Array, n: number, begin: number, end: number): Float64Array {
  const size = end - begin;
  const block = new Float64Array(size * size);
  for (let row = 0; row < size; row++) {
    block.set(moment.subarray((begin + row) * n + begin, (begin + row) * n + end), row * size);
  }
  return block;
}

function clip(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}
