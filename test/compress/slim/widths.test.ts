import assert from 'node:assert/strict';
import fc from 'fast-check';
import { allocateWidths } from '../../../lib/compress/slim/widths.ts';

/** A curve of given, never falling costs. */
function curveOf(costs: readonly number[]) {
  return { order: Int32Array.from(costs.keys()), curve: Float64Array.from(costs).sort() };
}

describe('widths', () => {
  const expert = fc.array(fc.double({ min: 0, max: 100, noNaN: true }), { minLength: 8, maxLength: 24 });
  const layer = fc.array(expert, { minLength: 1, maxLength: 5 });
  const model = fc.array(layer, { minLength: 1, maxLength: 4 });

  it('spend the budget, to the nearest block, in the scope where they are free', () => {
    fc.assert(
      fc.property(
        model,
        fc.double({ min: 0.1, max: 1, noNaN: true }),
        fc.constantFrom(1, 4),
        (costs, keep, multiple) => {
          const curves = costs.map((experts) => experts.map(curveOf));
          const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);
          for (const scope of ['model', 'layer'] as const) {
            const widths = allocateWidths(
              curves,
              costs.map(() => 1),
              { keep, scope, multiple },
            );
            const layers = costs.map((experts, at) => [sum(widths[at] as number[]), sum(experts.map((e) => e.length))]);
            const parts =
              scope === 'layer' ? layers : [layers.reduce(([a = 0, b = 0], [c = 0, d = 0]) => [a + c, b + d], [0, 0])];
            const experts = sum(costs.map((own) => own.length));
            for (const [spent = 0, all = 0] of parts) {
              // Empty experts keep one neuron beyond the budget.
              assert.ok(
                spent >= keep * all - multiple && spent <= keep * all + multiple + experts,
                `${spent} of ${keep * all}`,
              );
            }
            for (const [at, own] of widths.entries()) {
              for (const [e, width] of own.entries())
                assert.ok(width >= 1 && width <= (costs[at]?.[e]?.length as number));
            }
          }
        },
      ),
    );
  });

  it('go to the neurons that are missed most, weighed by the sensitivity of their layer', () => {
    const low = curveOf([1, 1, 1, 1]);
    const high = curveOf([3, 3, 3, 3]);
    assert.deepEqual(allocateWidths([[low, high]], [1], { keep: 0.5, scope: 'model', multiple: 1 }), [[1, 4]]);
    assert.deepEqual(allocateWidths([[low], [high]], [1, 1], { keep: 0.5, scope: 'model', multiple: 1 }), [[1], [4]]);
    assert.deepEqual(allocateWidths([[low], [high]], [9, 1], { keep: 0.5, scope: 'model', multiple: 1 }), [[4], [1]]);
    assert.deepEqual(allocateWidths([[low], [high]], [9, 1], { keep: 0.5, scope: 'layer', multiple: 1 }), [[2], [2]]);
    assert.deepEqual(allocateWidths([[low], [high]], [], { keep: 0.6, scope: 'equal', multiple: 2 }), [[2], [2]]);
  });
});
