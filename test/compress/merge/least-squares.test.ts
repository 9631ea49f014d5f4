import assert from 'node:assert/strict';
import fc from 'fast-check';
import { hiddenTransform, leastSquaresDown } from '../../../lib/compress/merge/least-squares.ts';
import { closeTo } from '../golden-case.ts';
import { productsOf, transposed } from '../golden-layer.ts';

const [width, hidden, tokens] = [4, 3, 12];

describe("MergeMoE's down projection", () => {
  const rows = fc
    .array(fc.integer({ min: -99, max: 99 }), { minLength: width * tokens, maxLength: width * tokens })
    .map((values) => Float64Array.from(values, (value) => value / 33));
  const downs = fc.float32Array({ minLength: width * hidden, maxLength: width * hidden, min: -2, max: 2, noNaN: true });
  /** Σ a·bᵀ of rows [tokens, width]. */
  const sumOf = (a: Float64Array, b: Float64Array): Float64Array =>
    productsOf(transposed(a, width), transposed(b, width), tokens);

  it('of one member is its own', async () => {
    await fc.assert(
      fc.asyncProperty(rows, downs, async (p, down) => {
        const gram = sumOf(p, p);
        closeTo(await leastSquaresDown([{ share: 1, down, cross: gram }], gram, width, 1e-3), down, 1e-5);
      }),
      { numRuns: 40 },
    );
  });

  it('of members with the same hidden rows is the mean by shares', async () => {
    const p = Float64Array.from({ length: width * tokens }, (_, at) => Math.sin(at * at));
    const cross = sumOf(p, p);
    const members = [
      { share: 0.25, down: new Float32Array(hidden * width).fill(4), cross },
      { share: 0.75, down: new Float32Array(hidden * width).fill(-1), cross },
    ];
    closeTo(await leastSquaresDown(members, cross, width, 1e-3), new Float64Array(hidden * width).fill(0.25), 1e-6);
  });

  it('maps hidden rows at least as well as the plain mean does', async () => {
    await fc.assert(
      fc.asyncProperty(rows, rows, async (p, q) => {
        const transform = await hiddenTransform(sumOf(q, p), sumOf(p, p), width, 1e-3);
        const mapped = productsOf(p, transform, width);
        const error = (got: Float64Array): number =>
          got.reduce((sum, value, i) => sum + (value - (q[i] as number)) ** 2, 0);
        assert.ok(error(mapped) <= error(p) + 1e-9);
      }),
      { numRuns: 40 },
    );
  });

  it('recovers members whose hidden rows are linear in the merged one', async () => {
    const p = Float64Array.from({ length: width * tokens }, (_, at) => Math.sin(1 + at * at));
    const map = Float64Array.from({ length: width * width }, (_, at) => Math.cos(3 * at));
    const q = productsOf(p, map, width);
    closeTo(await hiddenTransform(sumOf(q, p), sumOf(p, p), width, 1e-12), map, 1e-8);
  });

  it('refuses products of another size', async () => {
    const gram = new Float64Array(9);
    await assert.rejects(leastSquaresDown([], gram, 3, 1), { code: 'INVALID_ARGUMENT', argument: 'members' });
    const member = { share: 1, down: new Float32Array(6), cross: new Float64Array(4) };
    await assert.rejects(leastSquaresDown([member], gram, 3, 1), { code: 'INVALID_ARGUMENT', argument: 'members' });
  });
});
