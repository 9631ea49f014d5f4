import { strict as assert } from 'node:assert';
import { createSampler, generator, mostLikely } from '../../lib/model/sampling.ts';
import { moeError } from './support.ts';

const draws = 20_000;

function shares(logits: number[], options: { temperature: number; topP?: number }): number[] {
  const sample = createSampler({ seed: 11, ...options });
  const counts = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < draws; i++) {
    const id = sample(Float32Array.from(logits));
    counts[id] = (counts[id] ?? 0) + 1;
  }
  return counts.map((count) => count / draws);
}

describe('sampling', () => {
  it('at temperature 0 takes the most likely, ties to the lower id, NaN the lowest', () => {
    assert.equal(mostLikely(Float32Array.of(1, 3, 3, 2)), 1);
    assert.equal(mostLikely(Float32Array.of(Number.NaN, -5, Number.NaN)), 1);
    assert.equal(mostLikely(Float32Array.of(Number.NaN, Number.NaN)), 0);
    assert.equal(createSampler({ temperature: 0 })(Float32Array.of(0, 9, 1)), 1);
  });

  it('follows softmax(logits / temperature)', () => {
    const logits = [0, 1, 2, Number.NEGATIVE_INFINITY];
    for (const temperature of [0.5, 1, 3]) {
      const weights = logits.map((logit) => Math.exp(logit / temperature));
      const total = weights.reduce((sum, weight) => sum + weight);
      for (const [id, share] of shares(logits, { temperature }).entries()) {
        const expected = (weights[id] as number) / total;
        assert.ok(Math.abs(share - expected) < 0.012, `id ${id} at ${temperature}: ${share}, expected ${expected}`);
      }
    }
  });

  it('keeps the fewest tokens that hold topP', () => {
    const logits = [0.1, 0.4, 0.3, 0.2].map(Math.log);
    const kept = (topP: number) =>
      shares(logits, { temperature: 1, topP }).flatMap((share, id) => (share > 0 ? [id] : []));
    assert.deepEqual(kept(0.3), [1]);
    assert.deepEqual(kept(0.6), [1, 2]);
    assert.deepEqual(kept(0.85), [1, 2, 3]);
    assert.deepEqual(kept(1), [0, 1, 2, 3]);
  });

  it('never fails on NaN or infinite logits', () => {
    const sample = createSampler({ temperature: 1, topP: 0.5, seed: 1 });
    assert.equal(sample(Float32Array.of(Number.NaN, 2, Number.NaN)), 1);
    assert.equal(sample(Float32Array.of(1, Number.POSITIVE_INFINITY)), 1);
    assert.equal(sample(Float32Array.of(Number.NaN)), 0);
  });

  it('has a generator with a known sequence, uniform in [0, 1)', () => {
    const [first, second] = [generator(42), generator(42)];
    let sum = 0;
    for (let i = 0; i < draws; i++) {
      const value = first();
      assert.equal(value, second());
      assert.ok(value >= 0 && value < 1);
      sum += value;
    }
    assert.ok(Math.abs(sum / draws - 0.5) < 0.01);
    assert.notEqual(generator(1)(), generator(2 ** 32 + 1)());
  });

  it('refuses options out of range', () => {
    assert.throws(() => createSampler({ temperature: -1 }), moeError('INVALID_ARGUMENT', /temperature/));
    assert.throws(() => createSampler({ topP: 0 }), moeError('INVALID_ARGUMENT', /topP/));
    assert.throws(() => createSampler({ seed: Number.NaN }), moeError('INVALID_ARGUMENT', /seed/));
  });
});
