import assert from 'node:assert/strict';
import { hcSmoeGroups } from '../../../lib/compress/group/hc-smoe.ts';
import { renumber } from '../../../lib/compress/group/labels.ts';
import { reamGroups, reamSaliency } from '../../../lib/compress/group/ream.ts';
import { goldenCase } from '../golden-case.ts';
import { productsOf, transposed } from '../golden-layer.ts';

describe('REAM groups', () => {
  it('agrees with the published code for every size of groups, with and without router logits', async () => {
    const golden = await goldenCase('ream');
    const [experts = 0, size = 0] = golden.tensor('router').shape;
    const logits = productsOf(golden.tensor('x').values, golden.tensor('router').values, size);
    const columns = transposed(logits, experts);
    const outputs = golden.tensor('mean_gated_output').values;
    const statistics = {
      saliency: golden.tensor('saliency_gated').values,
      outputGram: productsOf(outputs, outputs, size),
    };
    const logitGram = productsOf(columns, columns, logits.length / experts);
    for (const [groups, limit] of [
      [6, 16],
      [6, 3],
      [4, 4],
      [5, 0],
    ] as const) {
      for (const [name, given] of [
        ['gate', { ...statistics, logitGram }],
        ['nogate', statistics],
      ] as const) {
        const { labels, centroids } = reamGroups(given, groups, limit);
        assert.deepEqual([...labels], [...golden.tensor(`${name}_labels_k${groups}_C${limit}`).values]);
        assert.deepEqual([...centroids], [...golden.tensor(`${name}_centroids_k${groups}_C${limit}`).values]);
      }
    }
    const clusters = Int32Array.from(golden.tensor('hc_labels_5').values);
    assert.deepEqual(hcSmoeGroups(outputs, experts, 5), renumber(clusters));
  });

  it('refuses groups that do not hold all experts', () => {
    const statistics = { saliency: new Float64Array(6), outputGram: new Float64Array(36) };
    for (const [groups, limit] of [
      [0, 16],
      [7, 16],
      [2, 2],
    ] as const) {
      assert.throws(() => reamGroups(statistics, groups, limit), { code: 'RECIPE_INVALID' });
    }
  });

  it('gives experts without tokens the least weight that others have', () => {
    assert.deepEqual([...reamSaliency(Float64Array.of(0, 0.25, 3))], [0.25, 0.25, 3]);
    assert.deepEqual([...reamSaliency(Float64Array.of(0, 2))], [0.5, 2]);
  });
});
