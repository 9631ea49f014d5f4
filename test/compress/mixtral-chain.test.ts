/** MC-SMoE's own port to gated experts, from tokens to merged matrices. */
import assert from 'node:assert/strict';
import { membersByLabel } from '../../lib/compress/group/labels.ts';
import { groupExperts, groupsPerLayer } from '../../lib/compress/group/mc-smoe.ts';
import { cosineSimilarity } from '../../lib/compress/group/similarity.ts';
import { ExpertMean, mergeShares } from '../../lib/compress/merge/mean.ts';
import { closeTo, closeToLargest, expertOf, type GoldenCase, goldenCase, slice } from './golden-case.ts';
import { productsOf, transposed, usageOf } from './golden-layer.ts';

describe('MC-SMoE on gated experts', () => {
  let golden: GoldenCase;
  before(async () => {
    golden = await goldenCase('mcsmoe-mixtral-chain');
  });

  it('agrees in usage, similarity, groups and labels', () => {
    const [router, hidden] = [golden.tensor('router'), golden.tensor('hidden')];
    const [layers = 0, experts = 0, size = 0] = router.shape;
    const tokens = hidden.shape[1] as number;
    const each = Array.from({ length: layers }, (_, layer) => {
      const logits = productsOf(slice(hidden, layer), slice(router, layer), size);
      const columns = transposed(logits, experts);
      const similarity = cosineSimilarity(productsOf(columns, columns, tokens), experts);
      // The two best of every token count, whatever the model's own choice is.
      return { frequency: usageOf(logits, experts, 2), similarity };
    });
    const groups = groupsPerLayer(
      each.map(({ frequency }) => frequency),
      3,
    );
    assert.deepEqual(groups, [...golden.tensor('groups').values]);
    each.forEach(({ frequency, similarity }, layer) => {
      closeTo(frequency, slice(golden.tensor('usage'), layer), 1e-7);
      closeTo(similarity, slice(golden.tensor('similarity'), layer), 2e-6);
      const labels = groupExperts(frequency, similarity, groups[layer] as number);
      assert.deepEqual([...labels], [...slice(golden.tensor('labels'), layer)]);
    });
  });

  it('agrees in the merged matrices', () => {
    const tensors = { gate: golden.tensor('w1'), up: golden.tensor('w3'), down: golden.tensor('w2') };
    const stored = { gate: 'merged_w1', up: 'merged_w3', down: 'merged_w2' } as const;
    for (let layer = 0; layer < (tensors.up.shape[0] as number); layer++) {
      const usage = slice(golden.tensor('usage'), layer);
      for (const members of membersByLabel(slice(golden.tensor('labels'), layer))) {
        const shares = mergeShares(usage, members, { epsilon: 1e-7 });
        const mean = new ExpertMean();
        members.forEach((member, at) => {
          mean.add(expertOf(tensors, layer, member), shares[at] as number);
        });
        const merged = mean.mean();
        for (const name of ['gate', 'up', 'down'] as const) {
          for (const member of members) {
            closeToLargest(merged[name] ?? [], slice(golden.tensor(stored[name]), layer, member), 1e-6);
          }
        }
      }
    }
  });
});
