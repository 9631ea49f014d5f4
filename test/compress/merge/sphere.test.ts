import assert from 'node:assert/strict';
import { dominantMembers, membersByLabel } from '../../../lib/compress/group/labels.ts';
import { mergeShares } from '../../../lib/compress/merge/mean.ts';
import { sceMerge } from '../../../lib/compress/merge/sce.ts';
import { karcherMean, multiSlerp } from '../../../lib/compress/merge/sphere.ts';
import { closeTo, closeToLargest, goldenCase, slice } from '../golden-case.ts';

type Merge = (vectors: readonly Float32Array[], shares: readonly number[]) => Float64Array;

describe('merges about a dominant expert', () => {
  it('agree with the published code: multi-SLERP, SCE and the Karcher mean', async () => {
    const golden = await goldenCase('reap-merges');
    const [labels, usage] = [golden.tensor('labels').values, golden.tensor('proba').values];
    const dominant = dominantMembers(labels, usage);
    const modes: [name: string, merge: Merge, based: boolean, tolerance: number][] = [
      ['slerp', multiSlerp, true, 1e-5],
      ['slerp_nobase', multiSlerp, false, 1e-5],
      ['sce', (vectors) => sceMerge(vectors, 1), true, 1e-5],
      ['sce_top', (vectors) => sceMerge(vectors, 0.3), true, 1e-5],
      ['karcher_nobase', karcherMean, false, 1e-4],
    ];
    for (const [group, members] of membersByLabel(labels).entries()) {
      const base = dominant[group] as number;
      if (members.length === 1) continue;
      for (const [name, merge, based, tolerance] of modes) {
        const merged = based ? members.filter((member) => member !== base) : members;
        for (const matrix of ['gate', 'up', 'down']) {
          const values = (expert: number): Float64Array => slice(golden.tensor(matrix), expert);
          const origin = based ? values(base) : new Float64Array(values(base).length);
          const vectors = merged.map((member) =>
            Float32Array.from(values(member), (w, i) => w - (origin[i] as number)),
          );
          // The published Karcher mean weighs lengths by usages that do not add up to 1.
          const used = merged.reduce((sum, member) => sum + (usage[member] as number), 0);
          const scale = merge === karcherMean ? used : 1;
          const result = merge(vectors, mergeShares(usage, merged));
          const want = slice(golden.tensor(`${name}_${matrix}`), base);
          closeToLargest(
            result.map((value, i) => scale * value + (origin[i] as number)),
            want,
            tolerance,
          );
        }
      }
    }
  });

  it('of one vector, or of equal ones, are that vector', () => {
    const vector = Float32Array.of(3, -4, 12);
    for (const merge of [multiSlerp, karcherMean]) {
      closeTo(merge([vector], [1]), vector, 1e-6);
      closeTo(merge([vector, vector], [0.3, 0.7]), vector, 1e-6);
    }
    closeTo(sceMerge([vector], 1), vector, 1e-6);
  });

  it('lie between: halfway round a right angle, with the mean of the lengths', () => {
    const halfway = karcherMean([Float32Array.of(2, 0), Float32Array.of(0, 4)], [0.5, 0.5]);
    closeTo(halfway, [3 * Math.SQRT1_2, 3 * Math.SQRT1_2], 1e-6);
    const third = karcherMean([Float32Array.of(1, 0), Float32Array.of(0, 1)], [2 / 3, 1 / 3]);
    closeTo(third, [Math.cos(Math.PI / 6), Math.sin(Math.PI / 6)], 1e-6);
  });

  it('refuse directions that cancel out', () => {
    const vectors = [Float32Array.of(1, 0), Float32Array.of(-1, 0)];
    for (const merge of [multiSlerp, karcherMean]) {
      assert.throws(() => merge(vectors, [0.5, 0.5]), { code: 'INVALID_ARGUMENT', argument: 'vectors' });
    }
    assert.throws(() => sceMerge(vectors, 0), { argument: 'keep' });
  });
});
