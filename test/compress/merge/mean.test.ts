import assert from 'node:assert/strict';
import fc from 'fast-check';
import { activationAlignment } from '../../../lib/compress/align/activations.ts';
import { alignmentTo, permuteNeurons } from '../../../lib/compress/align/weights.ts';
import type { ExpertMatrices } from '../../../lib/compress/expert.ts';
import { dominantMembers, membersByLabel } from '../../../lib/compress/group/labels.ts';
import { FisherMean } from '../../../lib/compress/merge/fisher.ts';
import { ExpertMean, mergeShares, reversedWeights, uniformWeights } from '../../../lib/compress/merge/mean.ts';
import { closeTo, closeToLargest, expertOf, type GoldenCase, goldenCase, slice } from '../golden-case.ts';
import { hiddenRows, pairOf } from '../golden-layer.ts';

/** MC-SMoE's and HC-SMoE's. */
const epsilon = 1e-7;

function meanOf(experts: readonly ExpertMatrices[], shares: readonly number[]): ExpertMatrices {
  const mean = new ExpertMean();
  experts.forEach((expert, at) => {
    mean.add(expert, shares[at] as number);
  });
  return mean.mean();
}

describe('means of experts', () => {
  it('follow the published chain, by usage and by 1 − usage', async () => {
    const golden = await goldenCase('mcsmoe-switch-chain');
    const tensors = { up: golden.tensor('wi'), down: golden.tensor('wo') };
    const [layers = 0, experts = 0] = tensors.up.shape;
    for (let layer = 0; layer < layers; layer++) {
      const usage = slice(golden.tensor('usage'), layer);
      const aligned = await Promise.all(
        Array.from({ length: experts }, async (_, index) => {
          const expert = expertOf(tensors, layer, index);
          return permuteNeurons(expert, await alignmentTo(expertOf(tensors, layer, 0), expert));
        }),
      );
      for (const [name, weights] of [
        ['merged', usage],
        ['merged_reversed', reversedWeights(usage)],
      ] as const) {
        for (const members of membersByLabel(slice(golden.tensor('labels_avg3'), layer))) {
          const merged = meanOf(
            members.map((member) => aligned[member] as ExpertMatrices),
            // The first layer is not merged.
            mergeShares(weights, members, { epsilon: layer === 0 ? 0 : epsilon }),
          );
          for (const member of members) {
            closeToLargest(merged.up, slice(golden.tensor(`${name}_wi`), layer, member), 1e-6);
            closeToLargest(merged.down, slice(golden.tensor(`${name}_wo`), layer, member), 1e-6);
          }
        }
      }
    }
  });

  it('follow HC-SMoE on gated experts', async () => {
    const golden = await goldenCase('hcsmoe');
    const tensors = {
      gate: golden.tensor('layer_gate'),
      up: golden.tensor('layer_up'),
      down: golden.tensor('layer_down'),
    };
    for (const layer of [0, 1]) {
      const usage = slice(golden.tensor('layer_usage'), layer);
      for (const members of membersByLabel(slice(golden.tensor('layer_labels'), layer))) {
        const merged = meanOf(
          members.map((member) => expertOf(tensors, layer, member)),
          mergeShares(usage, members, { epsilon }),
        );
        for (const matrix of ['gate', 'up', 'down'] as const) {
          const want = slice(golden.tensor(`merged_${layer}_${matrix}`), members[0] as number);
          closeToLargest(merged[matrix] as Float32Array, want, 1e-6);
        }
      }
    }
  });

  it('agree in every mode of the published code', async () => {
    const golden = await goldenCase('mcsmoe-merge-modes');
    const tensors = { up: golden.tensor('wi'), down: golden.tensor('wo') };
    const information = { up: golden.tensor('F_wi'), down: golden.tensor('F_wo') };
    const [, width = 0, hidden = 0] = tensors.up.shape;
    const usage = golden.tensor('usage').values;
    const groups = membersByLabel(golden.tensor('labels').values);
    const equal = uniformWeights(usage.length);
    assert.deepEqual(dominantMembers(golden.tensor('labels').values, usage), [...golden.tensor('core').values]);
    for (const [group, members] of groups.entries()) {
      const experts = members.map((member) => expertOf(tensors, member));
      const reference = experts[0] as ExpertMatrices;
      const byWeights = await Promise.all(
        experts.map(async (expert) => permuteNeurons(expert, await alignmentTo(reference, expert))),
      );
      const x = tokensOf(golden, members);
      const rows = members.map((member) =>
        hiddenRows({ up: slice(tensors.up, member), down: slice(tensors.down, member) }, x, hidden),
      );
      const byActivations = await Promise.all(
        experts.map(async (expert, at) =>
          permuteNeurons(
            expert,
            await activationAlignment(pairOf(rows[0] as Float64Array, rows[at] as Float64Array, width)),
          ),
        ),
      );
      const fisher = new FisherMean();
      members.forEach((member, at) => {
        fisher.add(experts[at] as ExpertMatrices, expertOf(information, member));
      });
      const core = golden.tensor('core').values[group] as number;
      const results = {
        mean: meanOf(experts, mergeShares(equal, members)),
        mean_wm: meanOf(byWeights, mergeShares(equal, members)),
        mean_am: meanOf(byActivations, mergeShares(equal, members)),
        usage_wm: meanOf(byWeights, mergeShares(usage, members, { epsilon })),
        fisher: fisher.mean(),
        replace: expertOf(tensors, core),
      };
      for (const [mode, { up, down }] of Object.entries(results)) {
        for (const member of members) {
          closeToLargest(up, slice(golden.tensor(`${mode}_wi`), member), 1e-6);
          closeToLargest(down, slice(golden.tensor(`${mode}_wo`), member), 1e-6);
        }
      }
    }
  });

  it("agree with REAP's port, aligned to the dominant or not", async () => {
    const golden = await goldenCase('reap-merges');
    const tensors = { gate: golden.tensor('gate'), up: golden.tensor('up'), down: golden.tensor('down') };
    const usage = golden.tensor('proba').values;
    const labels = golden.tensor('labels').values;
    const dominant = dominantMembers(labels, usage);
    for (const [group, members] of membersByLabel(labels).entries()) {
      const experts = members.map((member) => expertOf(tensors, member));
      const reference = expertOf(tensors, dominant[group] as number);
      const aligned = await Promise.all(
        experts.map(async (expert) => permuteNeurons(expert, await alignmentTo(reference, expert))),
      );
      for (const [name, list] of [
        ['freq', experts],
        ['freq_wm', aligned],
      ] as const) {
        const merged = meanOf(list, mergeShares(usage, members));
        for (const matrix of ['gate', 'up', 'down'] as const) {
          const want = slice(golden.tensor(`${name}_${matrix}`), members[0] as number);
          closeToLargest(merged[matrix] as Float32Array, want, 1e-5);
        }
      }
    }
  });

  it('of equal experts, or of one used expert among unused ones, change nothing', () => {
    const values = fc.float32Array({ minLength: 12, maxLength: 12, min: -3, max: 3, noNaN: true });
    const expert = fc
      .record({ gate: values, up: values, down: values })
      .map((own) => ({ width: 4, hidden: 3, ...own }));
    const usage = fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 3, maxLength: 3 });
    fc.assert(
      fc.property(expert, expert, usage, (one, other, counts) => {
        const same = meanOf([one, one, one], mergeShares(counts, [0, 1, 2]));
        closeTo(same.up, one.up, 1e-6);
        closeTo(same.gate as Float32Array, one.gate, 1e-6);
        const used = meanOf([one, other, other], mergeShares([1 + (counts[1] as number), 0, 0], [0, 1, 2]));
        for (const matrix of ['gate', 'up', 'down'] as const) closeTo(used[matrix] as Float32Array, one[matrix], 0);
      }),
    );
  });

  it('shrink only where the published epsilon is asked for', () => {
    assert.deepEqual(mergeShares([1e-6], [0]), [1]);
    assert.ok((mergeShares([1e-6], [0], { epsilon })[0] as number) < 0.91);
  });

  it('refuse weights below zero', () => {
    for (const weight of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.throws(() => mergeShares([1, weight], [0, 1]), { code: 'INVALID_ARGUMENT', argument: 'weights[1]' });
    }
  });
});

/** The tokens of all members, one member after the other. */
function tokensOf(golden: GoldenCase, members: readonly number[]): Float64Array {
  const { shape, values } = golden.tensor('tokens');
  const [, size = 0] = shape;
  const counts = golden.tensor('token_counts').values;
  const begins = Array.from(counts, (_, expert) => counts.subarray(0, expert).reduce((sum, count) => sum + count, 0));
  return Float64Array.from(
    members.flatMap((member) => {
      const begin = begins[member] as number;
      return [...values.subarray(begin * size, (begin + (counts[member] as number)) * size)];
    }),
  );
}
