import assert from 'node:assert/strict';
import fc from 'fast-check';
import { alignmentTo, permuteNeurons, permuteRows } from '../../../lib/compress/align/weights.ts';
import type { ExpertMatrices } from '../../../lib/compress/expert.ts';
import { closeTo, expertOf, goldenCase, slice } from '../golden-case.ts';
import { expertRows } from '../golden-layer.ts';

describe('alignment by weights', () => {
  it('agrees with the published code, with and without the down projection', async () => {
    const golden = await goldenCase('mcsmoe-switch-chain');
    const [up, down, stable] = [golden.tensor('wi'), golden.tensor('wo'), golden.tensor('perm_is_stable')];
    const [layers = 0, experts = 0] = up.shape;
    for (let layer = 0; layer < layers; layer++) {
      const reference = expertOf({ up, down }, layer, 0);
      for (let index = 0; index < experts; index++) {
        if (slice(stable, layer)[index] !== 1) continue;
        const expert = expertOf({ up, down }, layer, index);
        const whole = await alignmentTo(reference, expert);
        assert.deepEqual([...whole], [...slice(golden.tensor('perm'), layer, index)]);
        const alone = await alignmentTo(reference, expert, { down: false });
        assert.deepEqual([...alone], [...slice(golden.tensor('perm_wi'), layer, index)]);
      }
    }
  });

  it('aligns gated experts to the first, by dot products, and to a dominant one, by distances', async () => {
    const golden = await goldenCase('align-swiglu');
    const tensors = { gate: golden.tensor('gate'), up: golden.tensor('up'), down: golden.tensor('down') };
    const [experts = 0] = tensors.gate.shape;
    for (let index = 0; index < experts; index++) {
      const expert = expertOf(tensors, index);
      for (const [reference, name] of [
        [0, 'perm_dot'],
        [2, 'perm_l2_float64'],
      ] as const) {
        const permutation = await alignmentTo(expertOf(tensors, reference), expert);
        assert.deepEqual([...permutation], [...slice(golden.tensor(name), index)], `${name}, expert ${index}`);
      }
    }
  });

  it('moves the bias of up with its neurons, which have no say', async () => {
    const golden = await goldenCase('mcsmoe-align-bias');
    const tensors = { up: golden.tensor('fc1'), down: golden.tensor('fc2') };
    for (let index = 0; index < 4; index++) {
      const expert = expertOf(tensors, index);
      const permutation = await alignmentTo(expertOf(tensors, 0), expert);
      assert.deepEqual([...permutation], [...slice(golden.tensor('perm'), index)]);
      const { up, down } = permuteNeurons(expert, permutation);
      const bias = permuteRows(Float32Array.from(slice(golden.tensor('bias1'), index)), permutation);
      assert.deepEqual([...up], [...slice(golden.tensor('aligned_fc1'), index)]);
      assert.deepEqual([...down], [...slice(golden.tensor('aligned_fc2'), index)]);
      assert.deepEqual([...bias], [...slice(golden.tensor('aligned_bias1'), index)]);
    }
  });

  const [width, hidden] = [6, 5];
  // Sixteenths, whose products are exact.
  const matrix = fc
    .array(fc.integer({ min: -32, max: 32 }), { minLength: 30, maxLength: 30 })
    .map((values) => Float32Array.from(values, (value) => value / 16));
  const experts = fc
    .record({ gate: matrix, up: matrix, down: matrix })
    .map((matrices): ExpertMatrices => ({ width, hidden, ...matrices }));
  const orders = fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 6 }).map((order) => Int32Array.from(order));

  it('keeps the function, whatever the order', () => {
    fc.assert(
      fc.property(experts, orders, matrix, (expert, order, x) => {
        closeTo(outputOf(permuteNeurons(expert, order), x), outputOf(expert, x), 1e-4);
      }),
    );
  });

  it('fits at least as well as any other order', async () => {
    await fc.assert(
      fc.asyncProperty(experts, experts, orders, async (reference, expert, order) => {
        const best = likeness(reference, permuteNeurons(expert, await alignmentTo(reference, expert)));
        assert.ok(best >= likeness(reference, permuteNeurons(expert, order)) - 1e-4);
        assert.ok(best >= likeness(reference, expert) - 1e-4);
      }),
    );
  });

  it('finds the order of a permuted copy', async () => {
    const distinct = experts.filter(({ up }) => new Set(rowsOf(up)).size === width);
    await fc.assert(
      fc.asyncProperty(distinct, orders, async (expert, order) => {
        const copy = permuteNeurons(expert, order);
        assert.deepEqual(permuteNeurons(copy, await alignmentTo(expert, copy)).up, expert.up);
      }),
    );
  });

  function rowsOf(up: Float32Array): string[] {
    return Array.from({ length: width }, (_, row) => up.subarray(row * hidden, (row + 1) * hidden).join());
  }

  function outputOf({ gate, up, down }: ExpertMatrices, x: Float32Array): Float64Array {
    const [g, u, d] = [gate as Float32Array, up, down].map((values) => Float64Array.from(values));
    return expertRows(
      { gate: g, up: u, down: d } as Required<Parameters<typeof expertRows>[0]>,
      Float64Array.from(x),
      hidden,
    );
  }

  function likeness(a: ExpertMatrices, b: ExpertMatrices): number {
    const dot = (x: Float32Array, y: Float32Array): number =>
      x.reduce((sum, value, i) => sum + value * (y[i] as number), 0);
    return dot(a.gate as Float32Array, b.gate as Float32Array) + dot(a.up, b.up) + dot(a.down, b.down);
  }
});
