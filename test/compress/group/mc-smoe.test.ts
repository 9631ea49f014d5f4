import assert from 'node:assert/strict';
import fc from 'fast-check';
import { groupExperts, groupsPerLayer, usageFrequency } from '../../../lib/compress/group/mc-smoe.ts';
import { cosineSimilarity } from '../../../lib/compress/group/similarity.ts';
import { closeTo, goldenCase, slice } from '../golden-case.ts';
import { productsOf, usageOf } from '../golden-layer.ts';

describe('MC-SMoE groups', () => {
  it('counts groups per layer as the published code, in every setting', async () => {
    const golden = await goldenCase('mcsmoe-budget');
    for (let setting = 0; setting < 12; setting++) {
      const usage = golden.tensor(`usage_${setting}`);
      const [layers = 0] = usage.shape;
      const average = golden.tensor(`avg_${setting}`).values[0] as number;
      const merged = [...golden.tensor(`merge_${setting}`).values].map((flag) => flag === 1);
      const frequencies = Array.from({ length: layers }, (_, layer) => slice(usage, layer));
      const groups = groupsPerLayer(frequencies, average, merged, { published: true });
      assert.deepEqual(groups, [...golden.tensor(`groups_${setting}`).values], `setting ${setting}`);
    }
  });

  it('follows the published chain: usage, similarity, budget, labels', async () => {
    const golden = await goldenCase('mcsmoe-switch-chain');
    const [router, hidden] = [golden.tensor('router'), golden.tensor('hidden')];
    const [layers = 0, experts = 0, size = 0] = router.shape;
    const each = Array.from({ length: layers }, (_, layer) => {
      const logits = productsOf(slice(hidden, layer), slice(router, layer), size);
      return { frequency: usageOf(logits, experts, 1), similarity: cosineSimilarity(gramOf(logits, experts), experts) };
    });
    const frequencies = each.map(({ frequency }) => frequency);
    each.forEach(({ frequency, similarity }, layer) => {
      closeTo(frequency, slice(golden.tensor('usage'), layer), 1e-7);
      closeTo(similarity, slice(golden.tensor('similarity'), layer), 2e-6);
    });
    for (const average of [2, 3, 5]) {
      const groups = groupsPerLayer(frequencies, average, [false, true, true, true]);
      assert.deepEqual(groups, [...golden.tensor(`groups_avg${average}`).values]);
      const labels = each.flatMap(({ frequency, similarity }, layer) => [
        ...groupExperts(frequency, similarity, groups[layer] as number),
      ]);
      assert.deepEqual(labels, [...golden.tensor(`labels_avg${average}`).values]);
    }
    // Layers alternate between encoder, where groups hold four at most, and decoder.
    const groups = groupsPerLayer(frequencies, 3);
    assert.deepEqual(groups, [...golden.tensor('groups_capacity').values]);
    const labels = each.flatMap(({ frequency, similarity }, layer) => [
      ...groupExperts(frequency, similarity, groups[layer] as number, layer % 2 === 0 ? 4 : experts),
    ]);
    assert.deepEqual(labels, [...golden.tensor('labels_capacity').values]);
  });

  it('never takes more groups than the budget, at least one a layer, more for a larger average', () => {
    const counts = fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 12, maxLength: 12 });
    fc.assert(
      fc.property(fc.array(counts, { minLength: 1, maxLength: 6 }), (layers) => {
        const usage = layers.map((layer) => usageFrequency(Float64Array.from(layer)));
        let before = 0;
        for (let average = 1; average <= 12; average++) {
          const groups = groupsPerLayer(usage, average);
          const sum = groups.reduce((total, count) => total + count, 0);
          assert.ok(sum <= average * layers.length && sum >= before && groups.every((count) => count >= 1));
          before = sum;
        }
      }),
    );
  });

  it('fills the budget where no usage is twice the same', () => {
    const usage = Array.from({ length: 3 }, (_, layer) =>
      usageFrequency(Float64Array.from({ length: 8 }, (_, expert) => (1 + layer + 3 * expert) ** 1.5)),
    );
    for (let average = 1; average <= 8; average++) {
      assert.equal(
        groupsPerLayer(usage, average).reduce((total, count) => total + count, 0),
        average * 3,
      );
    }
  });

  it('keeps every expert where the average is all of them', () => {
    assert.deepEqual(groupsPerLayer([Float64Array.of(0.5, 0.5, 0, 0), Float64Array.of(1, 0, 0, 0)], 4), [4, 4]);
  });

  it('refuses counts that cannot be', () => {
    const [usage, similarity] = [Float64Array.of(0.5, 0.3, 0.2), new Float64Array(9)];
    for (const average of [0.5, 4, Number.NaN]) {
      assert.throws(() => groupsPerLayer([usage], average), { code: 'RECIPE_INVALID', argument: 'groups' });
    }
    for (const [groups, capacity] of [
      [0, 3],
      [4, 3],
      [1.5, 3],
      [1, 2],
    ] as const) {
      assert.throws(() => groupExperts(usage, similarity, groups, capacity), { code: 'RECIPE_INVALID' });
    }
  });
});

function gramOf(logits: Float64Array, experts: number): Float64Array {
  const gram = new Float64Array(experts * experts);
  for (let token = 0; token < logits.length; token += experts) {
    for (let at = 0; at < gram.length; at++) {
      const [a, b] = [token + Math.floor(at / experts), token + (at % experts)];
      gram[at] = (gram[at] as number) + (logits[a] as number) * (logits[b] as number);
    }
  }
  return gram;
}
