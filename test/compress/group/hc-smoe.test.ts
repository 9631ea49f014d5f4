import assert from 'node:assert/strict';
import fc from 'fast-check';
import { centralMembers, euclideanDistances, hcSmoeGroups } from '../../../lib/compress/group/hc-smoe.ts';
import { renumber } from '../../../lib/compress/group/labels.ts';
import { agglomerate, agglomerateJointly, type Linkage } from '../../../lib/compress/group/linkage.ts';
import { closeTo, type GoldenTensor, goldenCase, slice } from '../golden-case.ts';
import { columnMeans, expertRows } from '../golden-layer.ts';

describe('HC-SMoE groups', () => {
  it('clusters as the published code where that agrees with its linkage', async () => {
    const golden = await goldenCase('hcsmoe');
    const { shape, values } = golden.tensor('X');
    const [experts = 0] = shape;
    const distances = euclideanDistances(values, experts);
    const want = golden.tensor('distance').values;
    closeTo(
      distances.map((distance, at) => ((want[at] as number) > 0 ? distance / (want[at] as number) : 1 + distance)),
      new Float64Array(distances.length).fill(1),
      2e-5,
    );
    for (const linkage of ['average', 'single'] as const) {
      for (const clusters of [2, 4, 7]) {
        const labels = hcSmoeGroups(values, experts, clusters, linkage);
        assert.deepEqual([...labels], [...golden.tensor(`labels_${linkage}_${clusters}`).values]);
        const centres = golden.tensor(`centres_${linkage}_${clusters}`).values;
        assert.deepEqual(centralMembers(values, labels), [...centres]);
      }
    }
  });

  it('groups two layers by the mean outputs over all tokens', async () => {
    const golden = await goldenCase('hcsmoe');
    const [gate, up, down, x] = ['gate', 'up', 'down', 'hidden'].map((name) => golden.tensor(`layer_${name}`));
    assert.ok(gate && up && down && x);
    const [layers = 0, experts = 0, , size = 0] = gate.shape;
    for (let layer = 0; layer < layers; layer++) {
      const means = Array.from({ length: experts }, (_, expert) => {
        const own = (tensor: GoldenTensor): Float64Array => slice(tensor, layer, expert);
        const rows = expertRows({ gate: own(gate), up: own(up), down: own(down) }, slice(x, layer), size);
        return columnMeans(rows, size);
      });
      const outputs = Float64Array.from(means.flatMap((mean) => [...mean]));
      const labels = hcSmoeGroups(outputs, experts, 4);
      assert.deepEqual([...labels], [...slice(golden.tensor('layer_labels'), layer)]);
      assert.deepEqual(centralMembers(outputs, labels), [...slice(golden.tensor('layer_centres'), layer)]);
    }
  });

  it('cuts average, complete and Ward linkage where scipy does', async () => {
    const golden = await goldenCase('reap-clusters');
    for (let layer = 0; layer < 4; layer++) {
      const { shape, values } = golden.tensor(`ca_euclid_${layer}`);
      for (const linkage of ['average', 'complete', 'ward'] as const) {
        const want = Int32Array.from(golden.tensor(`cut_${linkage}_${layer}`).values);
        const got = agglomerate(values, shape[0] as number, 4, linkage);
        assert.deepEqual(got, renumber(want), `${linkage}, layer ${layer}`);
      }
    }
  });

  it('clusters layers in pairs under one budget as published', async () => {
    const golden = await goldenCase('reap-clusters');
    for (const pair of [
      [0, 1],
      [2, 3],
    ]) {
      const distances = pair.map((layer) => golden.tensor(`ca_euclid_${layer}`).values);
      agglomerateJointly(distances, 8, 'average').forEach((labels, at) => {
        const want = Int32Array.from(golden.tensor(`joint_${pair[at]}`).values);
        assert.deepEqual(labels, renumber(want), `layer ${pair[at]}`);
      });
    }
    for (const clusters of [1, 21]) {
      const twice = [new Float64Array(100), new Float64Array(100)];
      assert.throws(() => agglomerateJointly(twice, clusters, 'average'), { argument: 'clusters' });
    }
  });

  it('joins by the definition of each linkage', () => {
    // No two distances are the same.
    const points = fc
      .integer({ min: 1, max: 1e6 })
      .map((seed) => Array.from({ length: 20 }, (_, i) => (43758.5453 * Math.sin(seed + 12.9898 * i)) % 1));
    fc.assert(
      fc.property(points, (values) => {
        const distances = euclideanDistances(Float64Array.from(values), 10);
        for (const linkage of ['average', 'single', 'complete', 'ward'] as const) {
          for (let count = 1; count < 10; count++) {
            const labels = agglomerate(distances, 10, count, linkage);
            assert.deepEqual([...labels], clustersOf(values, count, gaps[linkage]));
          }
        }
      }),
      { numRuns: 30 },
    );
  });

  it('nests: a coarser cut joins clusters of the finer one', () => {
    const points = fc.array(fc.integer({ min: -1000, max: 1000 }), { minLength: 18, maxLength: 18 });
    const linkages = fc.constantFrom<Linkage>('average', 'single', 'complete', 'ward');
    fc.assert(
      fc.property(points, linkages, (values, linkage) => {
        const distances = euclideanDistances(Float64Array.from(values), 9);
        for (let clusters = 1; clusters < 9; clusters++) {
          const [coarse, fine] = [clusters, clusters + 1].map((count) => agglomerate(distances, 9, count, linkage));
          assert.equal(new Set(coarse).size, clusters);
          const pairs = new Set(fine?.map((label, point) => label * 9 + (coarse?.[point] as number)));
          assert.equal(pairs.size, clusters + 1);
        }
      }),
    );
  });

  it('refuses counts and distances that cannot be', () => {
    for (const clusters of [0, 3, 1.5]) {
      assert.throws(() => agglomerate(new Float64Array(4), 2, clusters, 'average'), { argument: 'clusters' });
    }
    assert.throws(() => agglomerate(new Float64Array(3), 2, 1, 'average'), { argument: 'distances' });
    assert.throws(() => agglomerate(Float64Array.of(0, Number.NaN, 0, 0), 2, 1, 'average'), { argument: 'distances' });
  });
});

type Gap = (a: readonly number[], b: readonly number[], values: readonly number[]) => number;

/** Distances of two clusters of points in the plane, from their members. */
const gaps: Record<Linkage, Gap> = {
  average: (a, b, values) => pairs(a, b, values).reduce((sum, gap) => sum + gap, 0) / (a.length * b.length),
  single: (a, b, values) => Math.min(...pairs(a, b, values)),
  complete: (a, b, values) => Math.max(...pairs(a, b, values)),
  ward: (a, b, values) => {
    const centre = (cluster: readonly number[], axis: number): number =>
      cluster.reduce((sum, point) => sum + (values[2 * point + axis] as number), 0) / cluster.length;
    const apart = Math.hypot(centre(a, 0) - centre(b, 0), centre(a, 1) - centre(b, 1));
    return Math.sqrt((2 * a.length * b.length) / (a.length + b.length)) * apart;
  },
};

function pairs(a: readonly number[], b: readonly number[], values: readonly number[]): number[] {
  const at = (point: number, axis: number): number => values[2 * point + axis] as number;
  return a.flatMap((p) => b.map((q) => Math.hypot(at(p, 0) - at(q, 0), at(p, 1) - at(q, 1))));
}

/** Labels after the two nearest clusters were joined again and again, every distance computed anew. */
function clustersOf(values: readonly number[], count: number, gap: Gap): number[] {
  const clusters = Array.from({ length: 10 }, (_, point) => [point]);
  while (clusters.length > count) {
    let best = { gap: Number.POSITIVE_INFINITY, low: 0, high: 1 };
    for (const [low, a] of clusters.entries()) {
      for (const [high, b] of clusters.entries()) {
        const between = gap(a, b, values);
        if (high > low && between < best.gap * (1 - 1e-9)) best = { gap: between, low, high };
      }
    }
    const [joined] = clusters.splice(best.high, 1);
    clusters[best.low]?.push(...(joined as number[]));
  }
  const labels = new Int32Array(10);
  for (const [label, cluster] of clusters.entries()) for (const point of cluster) labels[point] = label;
  return [...renumber(labels)];
}
