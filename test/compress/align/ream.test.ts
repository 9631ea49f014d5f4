import assert from 'node:assert/strict';
import { type HiddenProducts, reamAlignment } from '../../../lib/compress/align/ream.ts';
import { permuteNeurons } from '../../../lib/compress/align/weights.ts';
import { ExpertMean, mergeShares, uniformWeights } from '../../../lib/compress/merge/mean.ts';
import { closeToLargest, expertOf, goldenCase, slice } from '../golden-case.ts';
import { hiddenRows, pairOf } from '../golden-layer.ts';

describe("REAM's alignment and merge", () => {
  it('agrees with the published code in every mode', async () => {
    const golden = await goldenCase('align-swiglu');
    const tensors = { gate: golden.tensor('gate'), up: golden.tensor('up'), down: golden.tensor('down') };
    const [experts = 0, width = 0, size = 0] = tensors.gate.shape;
    const [saliency, group] = [golden.tensor('saliency').values, [...golden.tensor('group').values]];
    const centroid = group[0] as number;
    const rows = (expert: number): Float64Array =>
      hiddenRows(
        { gate: slice(tensors.gate, expert), up: slice(tensors.up, expert), down: slice(tensors.down, expert) },
        golden.tensor('x').values,
        size,
      );
    const productsWith = (expert: number): HiddenProducts => pairOf(rows(centroid), rows(expert), width);
    for (const mode of ['logits_weights', 'weights', 'logits', 'avg', 'avg_freq']) {
      const mean = new ExpertMean();
      const shares = mergeShares(mode === 'avg' ? uniformWeights(experts) : saliency, group);
      for (const [at, index] of group.entries()) {
        const expert = expertOf(tensors, index);
        const terms = {
          ...(mode.startsWith('logits') && { activations: productsWith(index) }),
          ...(mode.endsWith('weights') && { weights: { centroid: expertOf(tensors, centroid), expert } }),
        };
        const aligned =
          index === centroid || mode.startsWith('avg')
            ? expert
            : permuteNeurons(expert, await reamAlignment(terms, width));
        mean.add(aligned, shares[at] as number);
      }
      const merged = mean.mean();
      for (const matrix of ['gate', 'up', 'down'] as const) {
        closeToLargest(merged[matrix] as Float32Array, golden.tensor(`ream_${mode}_${matrix}`).values, 1e-5);
      }
    }
    assert.ok(group.length > 2);
  });

  it('adds up distances, not their squares', async () => {
    // Squares would rather have two middling distances (1.2² each) than a small and a large one (0.6, 1.7).
    const cosine = (distance: number): number => 1 - distance ** 2 / 2;
    const cross = Float64Array.from([1.2, 0.6, 1.7, 1.2], cosine);
    const squares = Float64Array.of(1, 1);
    assert.deepEqual(
      await reamAlignment({ activations: { squares, otherSquares: squares, cross } }, 2),
      Int32Array.of(1, 0),
    );
  });
});
