import assert from 'node:assert/strict';
import { alignmentTo, permuteNeurons } from '../../lib/compress/align.ts';
import { type ExpertMatrices, transpose } from '../../lib/compress/expert.ts';
import { groupExperts, groupsPerLayer, routerSimilarity, usageFrequency } from '../../lib/compress/group.ts';
import { ExpertMean, mergeShares } from '../../lib/compress/merge.ts';
import { type GoldenCase, goldenCase } from './golden-case.ts';

/** Matrix `index` of a stack. */
function slice({ shape, values }: ReturnType<GoldenCase['tensor']>, ...index: number[]): Float64Array {
  const size = shape.slice(index.length).reduce((product, length) => product * length, 1);
  const at = index.reduce((offset, position, axis) => offset * (shape[axis] as number) + position, 0);
  return values.subarray(at * size, (at + 1) * size);
}

function closeTo(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  assert.equal(got.length, want.length);
  for (let i = 0; i < got.length; i++) {
    assert.ok(Math.abs((got[i] as number) - (want[i] as number)) <= tolerance, `${i}: ${got[i]} for ${want[i]}`);
  }
}

describe('merge against the published code', () => {
  it('groups per layer, every setting', async () => {
    const golden = await goldenCase('mcsmoe-budget');
    for (let setting = 0; setting < 12; setting++) {
      const usage = golden.tensor(`usage_${setting}`);
      const [layers = 0, experts = 0] = usage.shape;
      const average = golden.tensor(`avg_${setting}`).values[0] as number;
      // The published code merges one expert of all where every expert may stay; ours keeps them (docs/architecture.md).
      if (average === experts) continue;
      const merged = [...golden.tensor(`merge_${setting}`).values].map((flag) => flag === 1);
      const frequencies = Array.from({ length: layers }, (_, layer) => Float64Array.from(slice(usage, layer)));
      assert.deepEqual(
        groupsPerLayer(frequencies, average, merged),
        [...golden.tensor(`groups_${setting}`).values],
        `setting ${setting}`,
      );
    }
  });

  it('usage, similarity, labels and merged weights of the whole chain', async () => {
    const golden = await goldenCase('mcsmoe-switch-chain');
    const [wi, wo, router, hidden] = ['wi', 'wo', 'router', 'hidden'].map((name) => golden.tensor(name));
    assert.ok(wi && wo && router && hidden);
    const [layers = 0, experts = 0, width = 0, size = 0] = wi.shape;
    const tokens = hidden.shape[1] as number;
    const frequencies: Float64Array[] = [];
    const similarities: Float64Array[] = [];
    for (let layer = 0; layer < layers; layer++) {
      const [x, rows] = [slice(hidden, layer), slice(router, layer)];
      const counts = new Float64Array(experts);
      const gram = new Float64Array(experts * experts);
      for (let token = 0; token < tokens; token++) {
        const logits = Float64Array.from({ length: experts }, (_, expert) =>
          rows
            .subarray(expert * size, (expert + 1) * size)
            .reduce((sum, w, i) => sum + w * (x[token * size + i] as number), 0),
        );
        const chosen = logits.indexOf(Math.max(...logits));
        counts[chosen] = (counts[chosen] as number) + 1;
        for (let a = 0; a < experts; a++) {
          for (let b = 0; b < experts; b++) {
            gram[a * experts + b] = (gram[a * experts + b] as number) + (logits[a] as number) * (logits[b] as number);
          }
        }
      }
      frequencies.push(usageFrequency(counts));
      similarities.push(routerSimilarity(gram, experts));
    }
    closeTo(
      frequencies.flatMap((usage) => [...usage]),
      golden.tensor('usage').values,
      1e-7,
    );
    closeTo(
      similarities.flatMap((matrix) => [...matrix]),
      golden.tensor('similarity').values,
      2e-6,
    );

    for (const average of [2, 3, 5]) {
      const groups = groupsPerLayer(frequencies, average, [false, true, true, true]);
      assert.deepEqual(groups, [...golden.tensor(`groups_avg${average}`).values]);
      const labels = groups.flatMap((count, layer) => [
        ...groupExperts(frequencies[layer] as Float64Array, similarities[layer] as Float64Array, count),
      ]);
      assert.deepEqual(labels, [...golden.tensor(`labels_avg${average}`).values]);
    }

    const labels = golden.tensor('labels_avg3');
    for (let layer = 0; layer < layers; layer++) {
      const expert = (index: number): ExpertMatrices => ({
        width,
        hidden: size,
        gate: undefined,
        up: Float32Array.from(slice(wi, layer, index)),
        down: Float32Array.from(slice(wo, layer, index)),
      });
      const aligned = await Promise.all(
        Array.from({ length: experts }, async (_, index) => {
          const permutation = await alignmentTo(expert(0), expert(index));
          if (slice(golden.tensor('perm_is_stable'), layer)[index] === 1) {
            assert.deepEqual([...permutation], [...slice(golden.tensor('perm'), layer, index)]);
          }
          return permuteNeurons(expert(index), permutation);
        }),
      );
      const labelOf = slice(labels, layer);
      for (let index = 0; index < experts; index++) {
        const members = [...labelOf.keys()].filter((other) => labelOf[other] === labelOf[index]);
        const mean = new ExpertMean();
        const shares = mergeShares(frequencies[layer] as Float64Array, members);
        members.forEach((member, at) => {
          mean.add(aligned[member] as ExpertMatrices, shares[at] as number);
        });
        const [gotUp, gotDown] = [mean.mean().up, mean.mean().down];
        const [wantUp, wantDown] = [
          slice(golden.tensor('merged_wi'), layer, index),
          slice(golden.tensor('merged_wo'), layer, index),
        ];
        // The published merge divides by Σ usage + 1e-7; a group that nobody uses is a plain mean here, zeros there.
        if (members.every((member) => frequencies[layer]?.[member] === 0)) continue;
        closeTo(gotUp, wantUp, 2e-6 * Math.max(...wantUp.map(Math.abs)));
        closeTo(gotDown, wantDown, 2e-6 * Math.max(...wantDown.map(Math.abs)));
      }
    }
  });

  it('alignment of gated experts', async () => {
    const golden = await goldenCase('align-swiglu');
    const [gate, up, down] = ['gate', 'up', 'down'].map((name) => golden.tensor(name));
    assert.ok(gate && up && down);
    const [experts = 0, width = 0, hidden = 0] = gate.shape;
    const expert = (index: number): ExpertMatrices => ({
      width,
      hidden,
      gate: Float32Array.from(slice(gate, index)),
      up: Float32Array.from(slice(up, index)),
      down: Float32Array.from(slice(down, index)),
    });
    for (let index = 0; index < experts; index++) {
      assert.deepEqual(
        [...(await alignmentTo(expert(0), expert(index)))],
        [...slice(golden.tensor('perm_dot'), index)],
      );
    }
  });
});

describe('merge properties', () => {
  const random = (length: number): Float32Array => Float32Array.from({ length }, () => Math.random() - 0.5);
  const make = (): ExpertMatrices => ({ width: 12, hidden: 8, gate: random(96), up: random(96), down: random(96) });

  it('finds the order of a permuted copy, and permuting keeps the function', async () => {
    const original = make();
    const shuffled = Int32Array.from([5, 0, 11, 3, 7, 1, 9, 2, 10, 4, 8, 6]);
    const copy = permuteNeurons(original, shuffled);
    const restored = permuteNeurons(copy, await alignmentTo(original, copy));
    assert.deepEqual(restored, original);
  });

  it('merging equal experts, or one used expert among unused ones, changes nothing', () => {
    const expert = make();
    for (const frequency of [Float64Array.of(0.25, 0.75), Float64Array.of(0, 0)]) {
      const mean = new ExpertMean();
      for (const share of mergeShares(frequency, [0, 1])) mean.add(expert, share);
      closeTo(mean.mean().up, expert.up, 1e-7);
    }
    const mean = new ExpertMean();
    mergeShares(Float64Array.of(0.3, 0), [0, 1]).forEach((share, index) => {
      mean.add(index === 0 ? expert : make(), share);
    });
    assert.deepEqual(mean.mean(), expert);
  });

  it('keeps every expert where the average is all of them', () => {
    assert.deepEqual(groupsPerLayer([Float64Array.of(0.5, 0.5, 0, 0), Float64Array.of(1, 0, 0, 0)], 4), [4, 4]);
  });

  it('never takes more groups than the budget, at least one a layer, more for a larger average', () => {
    const usage = Array.from({ length: 5 }, () =>
      usageFrequency(Float64Array.from({ length: 16 }, () => Math.random())),
    );
    let before = 0;
    for (let average = 1; average <= 16; average++) {
      const groups = groupsPerLayer(usage, average);
      const sum = groups.reduce((total, count) => total + count, 0);
      assert.ok(sum <= average * 5 && sum >= before && groups.every((count) => count >= 1));
      before = sum;
    }
  });

  it('transposes', () => {
    assert.deepEqual(transpose(Float32Array.of(1, 2, 3, 4, 5, 6), 2, 3), Float32Array.of(1, 4, 2, 5, 3, 6));
  });
});
