import assert from 'node:assert/strict';
import { renumber } from '../../../lib/compress/group/labels.ts';
import { groupExperts } from '../../../lib/compress/group/mc-smoe.ts';
import { filledGroupsPerLayer, reapDistances } from '../../../lib/compress/group/reap.ts';
import { closeTo, goldenCase } from '../golden-case.ts';
import { productsOf, transposed } from '../golden-layer.ts';

describe("M-SMoE groups in REAP's port", () => {
  it('agrees in distances, counts and groups', async () => {
    const golden = await goldenCase('reap-clusters');
    const usage = Array.from({ length: 4 }, (_, layer) => golden.tensor(`proba_${layer}`).values);
    const distances = usage.map(({ length: experts }, layer) => {
      const { shape, values } = golden.tensor(`logits_${layer}`);
      const columns = transposed(values, experts);
      const got = reapDistances(productsOf(columns, columns, shape[0] as number), experts);
      // Single precision gives the diagonal a distance of up to 4·10⁻⁴: the arc cosine is steep at 1.
      const want = golden.tensor(`msmoe_distance_${layer}`).values.map((d, at) => (at % (experts + 1) === 0 ? 0 : d));
      closeTo(got, want, 2e-5);
      return got;
    });
    for (const total of [8, 20]) {
      const groups = filledGroupsPerLayer(usage, total);
      usage.forEach((frequency, layer) => {
        const similarity = (distances[layer] as Float64Array).map((distance) => -distance);
        const labels = groupExperts(frequency, similarity, groups[layer] as number);
        const want = Int32Array.from(golden.tensor(`msmoe_labels_${total}_${layer}`).values);
        assert.deepEqual(renumber(labels), renumber(want), `budget ${total}, layer ${layer}`);
      });
    }
  });

  it('fills the budget, ties or not', () => {
    const usage = [Float64Array.of(0.5, 0.5, 0, 0), Float64Array.of(1, 0, 0, 0)];
    for (let total = 2; total <= 8; total++) {
      assert.equal(
        filledGroupsPerLayer(usage, total).reduce((sum, count) => sum + count, 0),
        total,
      );
    }
    for (const total of [1, 9, 2.5]) {
      assert.throws(() => filledGroupsPerLayer(usage, total), { code: 'RECIPE_INVALID' });
    }
  });
});
