import { strict as assert } from 'node:assert';
import { performance } from 'node:perf_hooks';
import type { NativeWeightForm } from '../../lib/addon.ts';
import type { StoredIntegers } from '../../lib/checkpoint/stored-matrix.ts';
import { decodeCodes } from '../../lib/compress/decode.ts';
import type { Codes } from '../../lib/compress/experts.ts';
import {
  assign,
  cholesky,
  type GptqOptions,
  gptq,
  neuronCurve,
  product,
  productF32,
  refitNeurons,
  ridgeSolve,
  searchPermutation,
  slimNeurons,
  sparseGpt,
  symmetricEigen,
  symmetricInverse,
  triangularProduct,
  triangularSolve,
  truncatedSvd,
} from '../../lib/compress/numerics.ts';
import { magnitudeMask, wandaMask } from '../../lib/compress/sparsify/masks.ts';
import { type FormatsCase, formatsCase } from '../golden/formats-case.ts';

/** Numbers in [−1, 1) from a seed. */
function randoms(count: number, seed: number): Float64Array {
  let state = seed;
  return Float64Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  });
}

function multiply(a: ArrayLike<number>, b: ArrayLike<number>, rows: number, columns: number, depth: number) {
  const to = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      for (let k = 0; k < depth; k++) {
        to[i * columns + j] =
          (to[i * columns + j] as number) + (a[i * depth + k] as number) * (b[k * columns + j] as number);
      }
    }
  }
  return to;
}

function transpose(a: ArrayLike<number>, rows: number, columns: number): Float64Array {
  return Float64Array.from(
    { length: rows * columns },
    (_, at) => a[(at % rows) * columns + Math.floor(at / rows)] as number,
  );
}

function largestDifference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  assert.equal(got.length, expected.length);
  let largest = 0;
  for (let i = 0; i < got.length; i++) {
    const difference = Math.abs((got[i] as number) - (expected[i] as number));
    largest = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(largest, difference);
  }
  return largest;
}

/** 2·Σ x·xᵀ / samples for x [samples, tokens, columns]. */
async function hessianOf(golden: FormatsCase): Promise<Float64Array> {
  const [samples, tokens, columns] = golden.shape('x') as [number, number, number];
  const x = golden.floats('x');
  const depth = samples * tokens;
  const gram = await product(transpose(x, depth, columns), x, { rows: columns, columns, depth });
  return gram.map((value) => (2 * value) / samples);
}

/** ‖x·(a − b)ᵀ‖² / ‖x·bᵀ‖² */
async function outputError(x: Float32Array, a: Float32Array, b: Float32Array, columns: number): Promise<number> {
  const shape = { rows: x.length / columns, columns: b.length / columns, depth: columns, transposed: true };
  const squares = async (weight: Float32Array): Promise<number> =>
    (await product(x, weight, shape)).reduce((sum, value) => sum + value * value, 0);
  return (await squares(b.map((value, at) => (a[at] as number) - value))) / (await squares(b));
}

describe('numerics', () => {
  it('multiplies, factors, solves and inverts', async () => {
    const [rows, columns, depth] = [5, 9, 7];
    const a = randoms(rows * depth, 1);
    const b = randoms(depth * columns, 2);
    const expected = multiply(a, b, rows, columns, depth);
    assert.ok(largestDifference(await product(a, b, { rows, columns, depth }), expected) < 1e-14);
    const flipped = transpose(b, depth, columns);
    assert.ok(
      largestDifference(await product(a, flipped, { rows, columns, depth, transposed: true }), expected) < 1e-14,
    );
    const single = await productF32(Float32Array.from(a), b, { rows, columns, depth });
    assert.ok(largestDifference(single, expected) < 1e-6);

    const n = depth;
    const gram = multiply(transpose(a, rows, n), a, n, n, rows);
    const l = await cholesky(gram, n, 0.5);
    const damped = gram.map((value, at) => value + (at % (n + 1) === 0 ? 0.5 : 0));
    assert.ok(largestDifference(multiply(l, transpose(l, n, n), n, n, n), damped) < 1e-13);
    const inverse = await symmetricInverse(gram, n, 0.5);
    const identity = Float64Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? 1 : 0));
    assert.ok(largestDifference(multiply(inverse, damped, n, n, n), identity) < 1e-12);
    const x = await ridgeSolve(gram, a, a, n, rows, 0.5);
    assert.ok(
      largestDifference(
        multiply(x, damped, rows, n, n),
        a.map((value) => value * 1.5),
      ) < 1e-12,
    );
    const z = await triangularSolve(l, a, rows, n);
    assert.ok(largestDifference(await triangularProduct(z, l, rows, n), a) < 1e-12);
    const other = await triangularSolve(l, a, rows, n, true);
    assert.ok(largestDifference(multiply(other, transpose(l, n, n), rows, n, n), a) < 1e-12);
    assert.deepEqual([...(await assign(new Float64Array([0, 5, 1, 0]), 2))], [1, 0]);
  });

  it('gives eigenvectors and the whitened matrix of a rank that is nearest', async () => {
    const n = 12;
    const a = randoms(n * n, 3);
    const gram = multiply(transpose(a, n, n), a, n, n, n);
    const { values, vectors } = await symmetricEigen(gram, n);
    const scaled = vectors.map((value, at) => value * (values[Math.floor(at / n)] as number));
    assert.ok(largestDifference(multiply(transpose(vectors, n, n), scaled, n, n, n), gram) < 1e-12);
    assert.equal((await symmetricEigen(gram, n, 2)).vectors.length, 2 * n);

    const [rows, rank] = [20, 4];
    const m = randoms(rows * n, 4);
    const l = await cholesky(gram, n, 0.1);
    const squares = (whitened: Float64Array): number => whitened.reduce((sum, value) => sum + value * value, 0);
    const whole = multiply(m, l, rows, n, n);
    const error = async (found: Awaited<ReturnType<typeof truncatedSvd>>): Promise<number> => {
      const b = found.u.map((value, at) => value * (found.s[at % rank] as number));
      const near = multiply(b, found.vt, rows, n, rank);
      return (
        squares(
          multiply(
            m.map((value, at) => value - (near[at] as number)),
            l,
            rows,
            n,
            n,
          ),
        ) / squares(whole)
      );
    };
    const found = await truncatedSvd(m, rows, n, rank, { whiten: l });
    assert.ok(Math.abs((await error(found)) - (1 - found.captured)) < 1e-12);
    const eigen = await symmetricEigen(multiply(transpose(whole, rows, n), whole, n, n, rows), n);
    const kept = eigen.values.subarray(0, rank).reduce((sum, value) => sum + value, 0);
    assert.ok(Math.abs(found.captured - kept / squares(whole)) < 1e-12);
    assert.ok((await error(await truncatedSvd(m, rows, n, rank))) > 1 - found.captured);
  });

  it('removes the neurons that matter least and repairs the rest', async () => {
    const [hidden, width, keep] = [6, 10, 4];
    const down = randoms(hidden * width, 5);
    const activations = randoms(30 * width, 6);
    const h = multiply(transpose(activations, 30, width), activations, width, width, 30);
    const made = await slimNeurons(down, h, hidden, width, 0.01, keep);
    assert.deepEqual(
      [...made.order].sort((a, b) => a - b),
      [...Array(width).keys()],
    );
    assert.deepEqual(
      [...made.kept],
      [...made.order.subarray(width - keep)].sort((a, b) => a - b),
    );
    for (let i = 1; i < width; i++) assert.ok((made.curve[i] as number) >= (made.curve[i - 1] as number));
    // The error is what the steps cost; their maximum bounds each of them.
    const change = down.map((value) => -value);
    for (const [place, column] of made.kept.entries()) {
      for (let row = 0; row < hidden; row++) {
        change[row * width + column] =
          (made.down[row * keep + place] as number) - (down[row * width + column] as number);
      }
    }
    const image = multiply(change, h, hidden, width, width);
    const error = image.reduce((sum, value, at) => sum + value * (change[at] as number), 0);
    assert.ok(error > 0 && error <= (width - keep) * (made.curve[width - keep - 1] as number));
    const { order } = await neuronCurve(Float32Array.from(down), h, hidden, width, 0.01);
    assert.deepEqual(order, made.order);
    await assert.rejects(refitNeurons(down, h, hidden, width, 0.01, Int32Array.of(3, 2)), {
      code: 'INVALID_ARGUMENT',
      argument: 'kept',
    });
  });

  it('rejects arrays of the wrong size, values that are not finite, and matrices that have no factor', async () => {
    const nan = new Float64Array([Number.NaN]);
    await assert.rejects(cholesky(new Float64Array(3), 2), { code: 'INVALID_ARGUMENT', argument: 'a' });
    await assert.rejects(cholesky(new Float64Array(4), 2), { code: 'INVALID_ARGUMENT', argument: 'a' });
    await assert.rejects(cholesky(nan, 1), { code: 'INVALID_ARGUMENT', argument: 'a' });
    await assert.rejects(symmetricEigen(nan, 1), { code: 'INVALID_ARGUMENT', argument: 'a' });
    await assert.rejects(truncatedSvd(nan, 1, 1, 1), { code: 'INVALID_ARGUMENT', argument: 'm' });
    await assert.rejects(truncatedSvd(new Float64Array(4), 2, 2, 3), { code: 'INVALID_ARGUMENT', argument: 'rank' });
    await assert.rejects(product(nan, nan, { rows: 1, columns: 1, depth: 1 }), { code: 'INVALID_ARGUMENT' });
    await assert.rejects(product(new Int32Array(1) as never, nan, { rows: 1, columns: 1, depth: 1 }), {
      code: 'INVALID_ARGUMENT',
      argument: 'a',
    });
    const form: NativeWeightForm = { store: 'i4', scale: 'f16', offset: true, group: 32 };
    const one = new Float32Array(1);
    await assert.rejects(gptq(one, new Float64Array(1), 1, 1, { form, bits: 5 }), { argument: 'bits' });
    await assert.rejects(gptq(one, nan, 1, 1, { form }), { argument: 'hessian' });
    await assert.rejects(sparseGpt(one, new Float64Array(1), 1, 1, { n: 3, m: 2 }), { argument: 'n' });
  });

  it('leaves the event loop free meanwhile', async () => {
    const n = 700;
    const gram = randoms(n * n, 7);
    let [longest, last, done] = [0, performance.now(), false];
    const watch = (): void => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
      if (!done) setImmediate(watch);
    };
    const started = performance.now();
    const running = symmetricEigen(gram, n);
    last = performance.now();
    setImmediate(watch);
    await running;
    done = true;
    assert.ok(longest < (performance.now() - started) / 2, `${longest} ms of ${performance.now() - started} ms`);
  });
});

describe('gptq against the published solver', () => {
  const cases: { folder: string; name: string; bits: 4 | 8; group: number; offset: boolean; bySize?: boolean }[] = [
    { folder: 'solver-gptq-256x256', name: 'int4_g128_asym', bits: 4, group: 128, offset: true },
    {
      folder: 'solver-gptq-256x256',
      name: 'int4_g128_asym_act_static',
      bits: 4,
      group: 128,
      offset: true,
      bySize: true,
    },
    { folder: 'solver-gptq-256x256', name: 'int4_g128_sym', bits: 4, group: 128, offset: false },
    { folder: 'solver-gptq-256x256', name: 'int4_g32_asym', bits: 4, group: 32, offset: true },
    { folder: 'solver-gptq-256x256', name: 'int4_g32_sym', bits: 4, group: 32, offset: false },
    { folder: 'solver-gptq-rare-expert', name: 'int4_g32_sym', bits: 4, group: 32, offset: false },
    { folder: 'solver-gptq-rare-expert', name: 'int8_g64_asym', bits: 8, group: 64, offset: true },
  ];
  for (const { folder, name, bits, group, offset, bySize = false } of cases) {
    it(`${folder} ${name}`, async () => {
      const golden = formatsCase(folder);
      const [rows, columns] = golden.shape('weight') as [number, number];
      const weight = golden.floats('weight');
      const form: NativeWeightForm = { store: bits === 4 ? 'i4' : 'i8', scale: 'f32', offset, group };
      const options: GptqOptions = { form, bySize, published: true };
      const hessian = await hessianOf(golden);
      const made = await gptq(weight, hessian, rows, columns, options);
      // Codes are the published integers less 2^(bits − 1), and offset = scale·(zero − 2^(bits − 1)).
      const half = 2 ** (bits - 1);
      const scale = new Float32Array(made.scale.buffer);
      assert.ok(largestDifference(scale, golden.floats(`${name}.scale`)) < 2e-4);
      const integers = golden.integers(`${name}.q`);
      let differing = 0;
      for (const [at, expected] of integers.entries()) {
        const byte = made.values[bits === 4 ? at >> 1 : at] as number;
        const code = bits === 4 ? ((at % 2 ? byte >> 4 : byte & 15) ^ 8) - 8 : (byte << 24) >> 24;
        if (code + half !== expected) differing++;
      }
      // The published solver ran in f32; where its f64 twin agrees everywhere so does ours.
      const allowed = golden.results[name]?.integers_differing_from_float64 as number;
      assert.ok(differing / integers.length <= 1.5 * allowed, `${differing} of ${integers.length} integers differ`);
      if (made.offset) {
        const zeros = golden.integers(`${name}.zero`);
        const zero = new Float32Array(made.offset.buffer).map((value, at) => value / (scale[at] as number) + half);
        assert.ok(largestDifference(zero, zeros) < 1e-3);
      }
      const x = golden.floats('x');
      const expected = golden.results[name]?.output_error as number;
      const error = await outputError(x, made.dequantized, weight, columns);
      assert.ok(Math.abs(error - expected) <= 0.03 * expected, `${error} for ${expected}`);
      // Our own grids are at least about as good.
      const own = await gptq(weight, hessian, rows, columns, { form: { ...form, scale: 'f16' }, bySize });
      const ownError = await outputError(x, own.dequantized, weight, columns);
      assert.ok(ownError < 1.1 * expected, `${ownError} for ${expected}`);
      const groupSize = (group || 'channel') as StoredIntegers['groupSize'];
      const stored: StoredIntegers = { format: bits === 4 ? 'int4' : 'int8', groupSize, offset, scale: 'f16' };
      const codes = { ...own, form: stored, ...(own.offset && { offset: own.offset }) } as Codes;
      assert.deepEqual(decodeCodes(codes, rows, columns), own.dequantized);
    });
  }
});

describe('n:m masks against published code', () => {
  for (const size of ['64x192', '96x256']) {
    const golden = formatsCase(`nm-masks-${size}`);
    const [rows, columns] = golden.shape('weight') as [number, number];
    const weight = golden.floats('weight');
    for (const [name, sparsity] of [
      ['2of4', { n: 2, m: 4 }],
      ['4of8', { n: 4, m: 8 }],
    ] as const) {
      it(`magnitude and Wanda, ${size}, ${name}`, () => {
        assert.deepEqual(
          Int32Array.from(magnitudeMask(weight, rows, columns, sparsity)),
          golden.integers(`magnitude.${name}.mask`),
        );
        // Dead inputs tie at score 0, and the published choice among them is arbitrary.
        const squares = golden.floats('scaler_row');
        const expected = golden.integers(`wanda.${name}.mask`);
        const mask = wandaMask(weight, squares, rows, columns, sparsity);
        for (const [at, kept] of expected.entries()) {
          if (squares[at % columns] !== 0) assert.equal(mask[at], kept, `element ${at}`);
        }
      });

      it(`SparseGPT, ${size}, ${name}`, async () => {
        const made = await sparseGpt(weight, await hessianOf(golden), rows, columns, sparsity);
        const expected = golden.floats(`sparsegpt.${name}.weight`);
        assert.deepEqual(
          Int32Array.from(made.mask),
          Int32Array.from(expected, (value) => (value === 0 ? 0 : 1)),
        );
        assert.ok(largestDifference(made.weight, expected) < 1e-5);
      });
    }
  }

  it('2:4 by magnitude of the best-of-six search', () => {
    const apex = formatsCase('nm-apex');
    const [height, width] = apex.shape('weight') as [number, number];
    const mask = magnitudeMask(apex.floats('weight'), height, width, { n: 2, m: 4 });
    assert.deepEqual(Int32Array.from(mask), apex.integers('m4n2_1d.mask'));
  });
});

describe('searchPermutation', () => {
  const sparsity = { n: 2, m: 4 };
  const golden = formatsCase('nm-apex-permutation');
  for (const name of ['24x8', '16x32', '12x24']) {
    it(`reaches what the published search keeps, ${name}`, async () => {
      const [rows, columns] = golden.shape(`${name}.weight`) as [number, number];
      const weight = golden.floats(`${name}.weight`);
      const found = await searchPermutation(weight, rows, columns, { ...sparsity, attempts: 100 });
      const expected = golden.results[name] as Record<string, number>;
      assert.ok(Math.abs(found.before - (expected.kept_before as number)) < 1e-3);
      assert.ok(found.after >= (expected.optimum ?? 0.995 * (expected.kept_after as number)) - 1e-3);
      assert.deepEqual(
        [...found.permutation].sort((a, b) => a - b),
        [...Array(columns).keys()],
      );
      const permuted = weight.map((_, at) => {
        const row = Math.floor(at / columns);
        return weight[row * columns + (found.permutation[at % columns] as number)] as number;
      });
      const mask = magnitudeMask(permuted, rows, columns, sparsity);
      const kept = permuted.reduce((sum, value, at) => sum + Math.abs(value) * (mask[at] as number), 0);
      assert.ok(Math.abs(kept - found.after) < 1e-6);
    });
  }

  it('refuses columns that m does not divide, and n that is not below m', async () => {
    const weight = new Float32Array(12);
    await assert.rejects(searchPermutation(weight, 2, 6, sparsity), { argument: 'columns' });
    await assert.rejects(searchPermutation(weight, 3, 4, { n: 4, m: 4 }), { argument: 'n' });
  });
});
