import assert from 'node:assert/strict';
import { pcbMerge } from '../../../lib/compress/merge/pcb.ts';
import { tiesMerge } from '../../../lib/compress/merge/ties.ts';
import { closeToLargest, goldenCase, slice } from '../golden-case.ts';

describe('task vectors', () => {
  it('merge by TIES as published', async () => {
    const golden = await goldenCase('task-vectors');
    const vectors = Array.from({ length: 4 }, (_, task) => Float32Array.from(slice(golden.tensor('tv'), task)));
    for (const percent of [20, 50]) {
      const { merged, sign, kept } = tiesMerge(vectors, { keep: percent / 100 });
      closeToLargest(merged, golden.tensor(`ties_${percent}`).values, 1e-6);
      assert.deepEqual([...sign], [...golden.tensor(`ties_sign_${percent}`).values]);
      assert.deepEqual([...kept], [...golden.tensor(`ties_kept_${percent}`).values]);
    }
  });

  it('merge by PCB as published', async () => {
    const golden = await goldenCase('task-vectors');
    const vectors = Array.from({ length: 4 }, (_, task) => Float32Array.from(slice(golden.tensor('tv'), task)));
    for (const percent of [5, 10, 30]) {
      const { merged, kept } = pcbMerge(vectors, percent / 100);
      closeToLargest(merged, golden.tensor(`pcb_${percent}`).values, 1e-6);
      assert.deepEqual([...kept], [...golden.tensor(`pcb_scale_kept_${percent}`).values]);
    }
  });

  it('of one task stay what they are, but for what is trimmed', () => {
    const vector = Float32Array.of(3, -2, 0, 1, -4);
    assert.deepEqual([...tiesMerge([vector], { keep: 1 }).merged], [...vector]);
    assert.deepEqual([...tiesMerge([vector], { keep: 0.2 }).merged], [3, 0, 0, 0, -4]);
  });

  it('refuse shares and lengths that cannot be', () => {
    for (const keep of [0, 1.5, Number.NaN]) {
      assert.throws(() => tiesMerge([Float32Array.of(1)], { keep }), { argument: 'keep' });
      assert.throws(() => pcbMerge([Float32Array.of(1)], keep), { argument: 'keep' });
    }
    for (const vectors of [[], [Float32Array.of(1), Float32Array.of(1, 2)]]) {
      assert.throws(() => tiesMerge(vectors, { keep: 0.5 }), { argument: 'vectors' });
      assert.throws(() => pcbMerge(vectors, 0.5), { argument: 'vectors' });
    }
  });
});
