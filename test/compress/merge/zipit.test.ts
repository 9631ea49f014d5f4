import assert from 'node:assert/strict';
import { hiddenCorrelation } from '../../../lib/compress/align/activations.ts';
import { permuteNeurons } from '../../../lib/compress/align/weights.ts';
import type { ExpertMatrices } from '../../../lib/compress/expert.ts';
import { foldNeurons } from '../../../lib/compress/merge/zipit.ts';
import { closeTo, closeToLargest, expertOf, goldenCase, slice } from '../golden-case.ts';
import { expertRows, hiddenRows, pairOf } from '../golden-layer.ts';

describe('folding neurons', () => {
  it('agrees with the published code, by weights and by activations', async () => {
    const golden = await goldenCase('mcsmoe-merge-modes');
    const tensors = { up: golden.tensor('wi'), down: golden.tensor('wo') };
    const [, width = 0, size = 0] = tensors.up.shape;
    const group = [0, 3, 6];
    const usage = golden.tensor('usage').values;
    const counts = golden.tensor('token_counts').values;
    const begin = (expert: number): number => counts.subarray(0, expert).reduce((sum, count) => sum + count, 0) * size;
    const x = Float64Array.from(
      group.flatMap((expert) => [...golden.tensor('tokens').values.subarray(begin(expert), begin(expert + 1))]),
    );
    const up = Float64Array.from(group.flatMap((expert) => [...slice(tensors.up, expert)]));
    const rows = hiddenRows({ up, down: up }, x, size);
    const correlation = hiddenCorrelation(pairOf(rows, rows, group.length * width));
    const members = group.map((expert) => ({
      expert: expertOf(tensors, expert),
      coefficient: usage[expert] as number,
    }));
    for (const [name, given] of [
      ['zip_weights', undefined],
      ['zip_acts', correlation],
    ] as const) {
      const folded = await foldNeurons(members, given);
      closeToLargest(folded.up, golden.tensor(`${name}_wi`).values, 2e-5);
      closeToLargest(folded.down, golden.tensor(`${name}_wo`).values, 2e-5);
      const weights = { up: Float64Array.from(folded.up), down: Float64Array.from(folded.down) };
      closeToLargest(expertRows(weights, golden.tensor('probe').values, size), golden.tensor(`${name}_y`).values, 2e-5);
    }
  });

  it('of an expert and a copy in another order is that expert', async () => {
    const rows = [8, 0, 0, 0, -5, 0, 0, 0, 3];
    const expert: ExpertMatrices = {
      width: 3,
      hidden: 3,
      gate: Float32Array.from(rows, (value) => value / 2),
      up: Float32Array.from(rows),
      down: Float32Array.from(rows),
    };
    const copy = permuteNeurons(expert, Int32Array.of(2, 0, 1));
    const folded = await foldNeurons([expert, copy].map((each) => ({ expert: each, coefficient: 0.5 })));
    closeTo(folded.up, expert.up, 0);
    closeTo(folded.gate as Float32Array, expert.gate as Float32Array, 0);
    assert.deepEqual(folded.down, expert.down);
  });

  it('refuses no members, and a correlation of another size', async () => {
    const matrix = new Float32Array(4);
    const expert = { width: 2, hidden: 2, gate: undefined, up: matrix, down: matrix };
    await assert.rejects(foldNeurons([]), { code: 'INVALID_ARGUMENT', argument: 'members' });
    await assert.rejects(foldNeurons([{ expert, coefficient: 1 }], new Float64Array(9)), { argument: 'correlation' });
  });
});
