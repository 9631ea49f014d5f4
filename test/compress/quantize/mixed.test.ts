import assert from 'node:assert/strict';
import fc from 'fast-check';
import { type Choice, chooseWithin } from '../../../lib/compress/quantize/mixed.ts';

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** All ways to choose. */
function* waysOf(items: readonly (readonly Choice[])[]): Generator<Choice[]> {
  const [first, ...rest] = items;
  if (!first) return yield [];
  for (const choice of first) for (const way of waysOf(rest)) yield [choice, ...way];
}

describe('a choice for each item under a budget', () => {
  const choice = fc.record({ bytes: fc.integer({ min: 1, max: 9 }), error: fc.integer({ min: 0, max: 50 }) });
  const items = fc.array(fc.array(choice, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 5 });

  it('has the least error of all that fit', () => {
    fc.assert(
      fc.property(items, fc.integer({ min: 1, max: 40 }), (given, budget) => {
        const errors = [...waysOf(given)]
          .filter((way) => sum(way.map(({ bytes }) => bytes)) <= budget)
          .map((way) => sum(way.map(({ error }) => error)));
        if (errors.length === 0) {
          assert.throws(() => chooseWithin(given, budget), { code: 'RECIPE_INVALID', argument: 'budget' });
          return;
        }
        const chosen = chooseWithin(given, budget).map((at, item) => given[item]?.[at] as Choice);
        assert.ok(sum(chosen.map(({ bytes }) => bytes)) <= budget);
        assert.equal(sum(chosen.map(({ error }) => error)), Math.min(...errors));
      }),
    );
  });

  it('stays near the least, and within the budget, where totals are too many to tell apart', () => {
    let state = 1;
    const random = (): number => {
      state = (state * 48271) % 2147483647;
      return state / 2147483647;
    };
    const many = Array.from({ length: 40 }, () =>
      Array.from({ length: 4 }, (_, at) => ({ bytes: 1e6 * (at + 1) * (1 + random()), error: random() / 4 ** at })),
    );
    const budget = 1e6 * 40 * 2.5;
    const chosen = chooseWithin(many, budget).map((at, item) => many[item]?.[at] as Choice);
    assert.ok(sum(chosen.map(({ bytes }) => bytes)) <= budget);
    // No choice within the budget has less error than this, whatever the price of a byte.
    const bounds = Array.from({ length: 400 }, (_, at) => {
      const price = 1e-6 * 1.03 ** -at;
      const least = many.map((choices) => Math.min(...choices.map(({ bytes, error }) => error + price * bytes)));
      return sum(least) - price * budget;
    });
    assert.ok(sum(chosen.map(({ error }) => error)) <= 1.02 * Math.max(...bounds));
  });
});
