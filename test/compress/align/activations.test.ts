import assert from 'node:assert/strict';
import { activationAlignment, hiddenCorrelation } from '../../../lib/compress/align/activations.ts';
import { closeTo, goldenCase, slice } from '../golden-case.ts';
import { hiddenRows, pairOf } from '../golden-layer.ts';

describe('alignment by activations', () => {
  it('agrees with the published code', async () => {
    const golden = await goldenCase('mcsmoe-merge-modes');
    const [up, down, tokens, counts] = ['wi', 'wo', 'tokens', 'token_counts'].map((name) => golden.tensor(name));
    assert.ok(up && down && tokens && counts);
    const [, width = 0, size = 0] = up.shape;
    const reached = (counts.values[0] as number) + (counts.values[1] as number);
    for (const [name, rows] of [
      ['perm_am', reached],
      ['perm_am_one_token', 1],
    ] as const) {
      const x = tokens.values.subarray(0, rows * size);
      const [own, other] = [0, 1].map((expert) =>
        hiddenRows({ up: slice(up, expert), down: slice(down, expert) }, x, size),
      );
      const permutation = await activationAlignment(pairOf(own as Float64Array, other as Float64Array, width));
      assert.deepEqual([...permutation], [...golden.tensor(name).values]);
    }
  });

  it('correlates with itself fully, with the opposite not at all the other way, with a constant never', () => {
    const a = Float64Array.of(1, 5, 2, 5, 4, 5);
    const b = Float64Array.of(-1, 3, -2, 1, -4, 2);
    const correlation = hiddenCorrelation(pairOf(a, b, 2));
    closeTo([correlation[0] as number, correlation[2] as number, correlation[3] as number], [-1, 0, 0], 1e-6);
    closeTo([hiddenCorrelation(pairOf(a, a, 2))[0] as number], [1], 1e-6);
  });
});
