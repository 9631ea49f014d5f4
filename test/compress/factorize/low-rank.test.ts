import assert from 'node:assert/strict';
import { sumOf } from '../../../lib/compress/experts.ts';
import {
  lowRank,
  lowRankWithRows,
  lowRankWithSparse,
  patternOf,
  whiteningOf,
} from '../../../lib/compress/factorize/low-rank.ts';
import { sparseGpt } from '../../../lib/compress/numerics.ts';
import { MoeError } from '../../../lib/errors.ts';

/** Numbers in [−1, 1) from a seed. */
function numbers(count: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

const shape = { rows: 24, columns: 16 };
const weight = numbers(24 * 16, 1);
/** Σ x·xᵀ of 64 inputs whose columns differ much in size. */
const moment = (() => {
  const x = numbers(64 * 16, 2).map((value, at) => value * (1 + (at % 16)) ** 1.5);
  return Float64Array.from({ length: 256 }, (_, at) => {
    let sum = 0;
    for (let t = 0; t < 64; t++) sum += (x[t * 16 + Math.floor(at / 16)] as number) * (x[t * 16 + (at % 16)] as number);
    return sum;
  });
})();

/** tr(E·H·Eᵀ). */
function errorOn(sum: Float32Array, gram: Float64Array): number {
  const error = weight.map((value, at) => value - (sum[at] as number));
  let total = 0;
  for (let row = 0; row < 24; row++)
    for (let i = 0; i < 16; i++)
      for (let j = 0; j < 16; j++)
        total += (error[row * 16 + i] as number) * (gram[i * 16 + j] as number) * (error[row * 16 + j] as number);
  return total;
}

describe('low rank', () => {
  const identity = Float64Array.from({ length: 256 }, (_, at) => (at % 17 === 0 ? 1 : 0));

  it('is exact at full rank, and the whitened one is better where its inputs go', async () => {
    const whiten = await whiteningOf(moment, 16);
    const full = await lowRank(weight, shape, 16, { whiten });
    assert.ok(errorOn(sumOf({ ...shape, factors: full }), identity) < 1e-8);
    const [plain, seen] = [await lowRank(weight, shape, 4, {}), await lowRank(weight, shape, 4, { whiten })];
    const errors = [plain, seen].map((factors) => errorOn(sumOf({ ...shape, factors }), moment));
    assert.ok((errors[1] as number) < 0.9 * (errors[0] as number), errors.join(' '));
    const even = [plain, seen].map((factors) => errorOn(sumOf({ ...shape, factors }), identity));
    assert.ok((even[0] as number) < (even[1] as number), even.join(' '));
  });

  it('with rows beside it loses nothing on those, and less the more there are', async () => {
    const whiten = await whiteningOf(moment, 16);
    let before = Number.POSITIVE_INFINITY;
    for (const count of [0, 3, 12, 24]) {
      const matrix = await lowRankWithRows(weight, shape, 4, count, { whiten });
      const sum = sumOf(matrix);
      for (const row of matrix.kept?.index ?? []) {
        assert.deepEqual(sum.subarray(row * 16, (row + 1) * 16), weight.subarray(row * 16, (row + 1) * 16));
      }
      assert.equal(matrix.kept?.index.length ?? 0, count);
      const error = errorOn(sum, moment);
      assert.ok(error < before, `${count}: ${error}`);
      before = error;
    }
    assert.ok(before < 1e-9);
  });

  it('with an n:m part beside it is better than either alone', async () => {
    const whiten = await whiteningOf(moment, 16);
    const both = await lowRankWithSparse(weight, shape, 4, { n: 1, m: 4 }, moment, { whiten });
    const alone = await sparseGpt(weight, moment, 24, 16, { n: 1, m: 4 });
    const factors = await lowRank(weight, shape, 4, { whiten });
    const error = errorOn(sumOf(both), moment);
    assert.ok(error < errorOn(alone.weight, moment) && error < errorOn(sumOf({ ...shape, factors }), moment));
    const { index, values } = both.sparse as NonNullable<typeof both.sparse>;
    assert.equal(values.length, 24 * 4);
    assert.ok(index.every((place) => place < 4));
  });

  it('refuses patterns that are none', () => {
    assert.deepEqual(patternOf('2:4', 'pattern'), { n: 2, m: 4 });
    for (const text of ['4:4', '0:4', '2', '2:512', 'a:b']) {
      assert.throws(
        () => patternOf(text, 'pattern'),
        (error: unknown) => error instanceof MoeError && error.code === 'RECIPE_INVALID',
      );
    }
  });
});
