import assert from 'node:assert/strict';
import { difference, weightedMean } from '../../../lib/compress/factorize/delta.ts';
import { lowRank, type Shape } from '../../../lib/compress/factorize/low-rank.ts';
import { mergeShares } from '../../../lib/compress/merge/mean.ts';
import { productF32 } from '../../../lib/compress/numerics.ts';
import { closeToLargest, type GoldenCase, goldenCase, slice } from '../golden-case.ts';

describe('the delta form', () => {
  let golden: GoldenCase;
  before(async () => {
    golden = await goldenCase('d2moe-delta');
  });

  const f32 = (values: ArrayLike<number>): Float32Array => Float32Array.from(values);

  it('has the base of D²-MoE and what its expert differs by', async () => {
    const { shape, values } = golden.tensor('freq');
    const members = Array.from({ length: shape[0] as number }, (_, at) => at);
    const experts = members.map((at) => f32(slice(golden.tensor('W'), at)));
    const base = await weightedMean(experts, mergeShares(values, members));
    const delta = difference(experts[1] as Float32Array, base);
    closeToLargest(delta, golden.tensor('delta').values, 1e-6);
  });

  for (const [percent, rank] of [
    [20, 3],
    [50, 9],
  ] as const) {
    for (const [name, whitened] of [
      ['plain', false],
      ['whitened', true],
      ['absorb_u', true],
    ] as const) {
      it(`has its low rank: ${name}, ${percent} %`, async () => {
        const { shape, values } = golden.tensor('delta');
        const [rows = 0, columns = 0] = shape;
        const size: Shape = { rows, columns };
        const whiten = whitened ? golden.tensor('S').values : undefined;
        const { a, b } = await lowRank(f32(values), size, rank, { whiten });
        assert.equal(a.length, rank * columns);
        const got = await productF32(b, a, { ...size, depth: rank });
        closeToLargest(got, golden.tensor(`${name}_${percent}`).values, 2e-5);
      });
    }
  }
});
