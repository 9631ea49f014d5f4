import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  type ExpertSums,
  keptExperts,
  type PruneCriterion,
  pruneScores,
} from '../../../lib/compress/prune/criteria.ts';
import { closeTo, goldenCase, slice } from '../golden-case.ts';
import { choicesOf, expertRows, productsOf, softmaxOf } from '../golden-layer.ts';

const names: Partial<Record<PruneCriterion, string>> = {
  frequency: 'frequency',
  seer: 'weighted_expert_frequency_sum',
  ean: 'ean_sum',
  'weighted-ean': 'weighted_ean_sum',
  reap: 'reap',
  man: 'ean_mean',
};

describe('scores of experts', () => {
  it('and the experts kept by them agree with the published code, gates plain and renormalized', async () => {
    const golden = await goldenCase('reap-saliency');
    const [gate, up, down] = ['gate', 'up', 'down'].map((name) => golden.tensor(name));
    assert.ok(gate && up && down);
    const x = golden.tensor('x').values;
    const [experts = 0, , size = 0] = gate.shape;
    const logits = productsOf(x, golden.tensor('router').values, size);
    const scores = softmaxOf(logits, experts);
    const choices = choicesOf(logits, experts, 2);
    const norms = Array.from({ length: experts }, (_, e) => {
      const rows = expertRows({ gate: slice(gate, e), up: slice(up, e), down: slice(down, e) }, x, size);
      return (token: number): number => Math.hypot(...rows.subarray(token * size, (token + 1) * size));
    });
    for (const gates of ['plain', 'renorm']) {
      const sums = zeros(experts);
      for (const [token, chosen] of choices.entries()) {
        const own = (expert: number): number => scores[token * experts + expert] as number;
        const total = gates === 'plain' ? 1 : chosen.reduce((sum, expert) => sum + own(expert), 0);
        for (const expert of chosen) addToken(sums, expert, own(expert) / total, norms[expert]?.(token) as number);
      }
      for (const [criterion, name] of Object.entries(names) as [PruneCriterion, string][]) {
        const got = pruneScores(criterion, sums);
        const stored = `${gates}_${name === 'frequency' ? 'expert_frequency' : name}`;
        const want = golden.tensor(stored).values;
        closeTo(
          got.map((score, e) => score / ((want[e] as number) || 1)),
          want.map((score) => Number(score !== 0)),
          1e-5,
        );
        assert.deepEqual(keptExperts(got, 6), [...golden.tensor(`${gates}_kept_by_${name}`).values], stored);
      }
    }
  });

  it('do not depend on the order of tokens, and follow the scale of the outputs', () => {
    const token = fc.record({
      expert: fc.integer({ min: 0, max: 4 }),
      gate: fc.double({ min: 0, max: 1, noNaN: true }),
      norm: fc.double({ min: 0, max: 10, noNaN: true }),
    });
    const tokens = fc.array(token, { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(tokens, fc.double({ min: 0.1, max: 10, noNaN: true }), (list, scale) => {
        const of = (all: typeof list, by = 1): ExpertSums => {
          const sums = zeros(5);
          for (const { expert, gate, norm } of all) addToken(sums, expert, gate, norm * by);
          return sums;
        };
        for (const criterion of ['seer', 'ean', 'reap', 'man', 'msan'] as const) {
          const plain = pruneScores(criterion, of(list));
          closeTo(pruneScores(criterion, of(list.toReversed())), plain, 1e-9);
          const factor = criterion === 'seer' ? 1 : criterion === 'msan' ? scale * scale : scale;
          closeTo(
            pruneScores(criterion, of(list, scale)),
            plain.map((score) => score * factor),
            1e-6,
          );
        }
      }),
    );
  });

  it('are zero without tokens; the lower index stays where two are worth the same', () => {
    assert.deepEqual([...pruneScores('reap', zeros(3))], [0, 0, 0]);
    assert.deepEqual(keptExperts(Float64Array.of(1, 3, 1, 1, 2), 3), [0, 1, 4]);
  });

  it('refuse counts that cannot be', () => {
    for (const keep of [0, 4, 1.5, Number.NaN]) {
      assert.throws(() => keptExperts(new Float64Array(3), keep), { code: 'RECIPE_INVALID', argument: 'experts' });
    }
  });
});

function zeros(experts: number): ExpertSums {
  const make = (): Float64Array => new Float64Array(experts);
  return { counts: make(), gates: make(), norms: make(), gatedNorms: make(), squares: make() };
}

function addToken(sums: ExpertSums, expert: number, gate: number, norm: number): void {
  const add = (values: Float64Array, value: number): void => {
    values[expert] = (values[expert] as number) + value;
  };
  add(sums.counts, 1);
  add(sums.gates, gate);
  add(sums.norms, norm);
  add(sums.gatedNorms, gate * norm);
  add(sums.squares, norm * norm);
}
