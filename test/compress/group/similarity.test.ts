import assert from 'node:assert/strict';
import fc from 'fast-check';
import { hiddenCorrelation } from '../../../lib/compress/align/activations.ts';
import {
  addGram,
  correlationSimilarity,
  cosineSimilarity,
  scaleColumns,
} from '../../../lib/compress/group/similarity.ts';
import { closeTo, goldenCase, slice } from '../golden-case.ts';
import { choicesOf, columnMeans, hiddenRows, pairOf, productsOf } from '../golden-layer.ts';

describe('similarity of experts', () => {
  it('agrees with the published code on every basis', async () => {
    const golden = await goldenCase('mcsmoe-similarity-bases');
    const [wi, wo, router, hidden] = ['wi', 'wo', 'router', 'hidden'].map((name) => golden.tensor(name));
    assert.ok(wi && wo && router && hidden);
    const [experts = 0, width = 0, size = 0] = wi.shape;
    const logits = productsOf(hidden.values, router.values, size);
    const chosen = choicesOf(logits, experts, 1).flat();
    const inputs = Array.from({ length: experts }, (_, expert) => {
      const tokens = [...chosen.keys()].filter((token) => chosen[token] === expert);
      return Float64Array.from(tokens.flatMap((token) => [...slice(hidden, token)]));
    });
    const expect = async (name: string, ...vectors: Float32Array[]): Promise<void> => {
      const gram = new Float64Array(experts * experts);
      for (const piece of vectors) await addGram(gram, piece, experts);
      closeTo(cosineSimilarity(gram, experts), golden.tensor(`sim_${name}`).values, 5e-6);
    };
    const stack = (rows: readonly Float64Array[]): Float32Array => Float32Array.from(rows.flatMap((row) => [...row]));
    const columns = Array.from({ length: experts }, (_, expert) => logits.filter((_, at) => at % experts === expert));
    await expect('router_logits', stack(columns));
    await expect('weight', Float32Array.from(wi.values), Float32Array.from(wo.values));
    await expect('router_weight', Float32Array.from(router.values));
    await expect('feature', stack(inputs.map((rows) => columnMeans(rows, size))));
    await expect('feature_abs', stack(inputs.map((rows) => columnMeans(rows.map(Math.abs), size))));
    await expect('router_weight_feature', scaleColumns(Float32Array.from(router.values), norms(hidden.values, size)));
    const scaled = inputs.map((rows, expert) =>
      Float64Array.from(scaleColumns(Float32Array.from(slice(wi, expert)), norms(rows, size))),
    );
    await expect('weight_feature', stack(scaled));

    for (let a = 0; a < experts; a++) {
      for (let b = a + 1; b < experts; b++) {
        const rows = Float64Array.from([...(inputs[a] as Float64Array), ...(inputs[b] as Float64Array)]);
        const [own, other] = [a, b].map((expert) =>
          hiddenRows({ up: slice(wi, expert), down: slice(wo, expert) }, rows, size),
        ) as [Float64Array, Float64Array];
        const correlation = hiddenCorrelation(pairOf(own, other, width));
        for (const [match, name] of [
          ['assignment', 'lsa'],
          ['maximum', 'max'],
        ] as const) {
          const want = slice(golden.tensor(`sim_feature_correlation_${name}`), a, b);
          closeTo([await correlationSimilarity(correlation, width, match)], want, 5e-6);
        }
      }
    }
  });

  it('streams: the Gram of all tokens is the sum over parts; values in 0 … 1, symmetric, diagonal 1', async () => {
    const vectors = fc.array(fc.float({ min: -4, max: 4, noNaN: true }), { minLength: 24, maxLength: 24 });
    await fc.assert(
      fc.asyncProperty(vectors, vectors, async (left, right) => {
        const [whole, parts] = [new Float64Array(16), new Float64Array(16)];
        const joined = Array.from({ length: 4 }, (_, row) => [
          ...left.slice(row * 6, (row + 1) * 6),
          ...right.slice(row * 6, (row + 1) * 6),
        ]);
        await addGram(whole, Float32Array.from(joined.flat()), 4);
        for (const part of [left, right]) await addGram(parts, Float32Array.from(part), 4);
        closeTo(parts, whole, 1e-9);
        const similarity = cosineSimilarity(whole, 4);
        similarity.forEach((value, at) => {
          const [a, b] = [Math.floor(at / 4), at % 4];
          assert.ok(value >= 0 && value <= 1);
          assert.equal(value, similarity[b * 4 + a]);
          if (a === b) assert.equal(value, 1);
        });
      }),
      { numRuns: 40 },
    );
  });

  it('is one half from an expert that no token reached', () => {
    assert.deepEqual([...cosineSimilarity(Float64Array.of(4, 0, 0, 0), 2)], [1, 0.5, 0.5, 1]);
  });

  it('refuses a correlation of another size', async () => {
    await assert.rejects(correlationSimilarity(new Float64Array(5), 2, 'maximum'), { code: 'INVALID_ARGUMENT' });
  });
});

function norms(rows: Float64Array, columns: number): Float64Array {
  const squares = new Float64Array(columns);
  rows.forEach((value, at) => {
    squares[at % columns] = (squares[at % columns] as number) + value * value;
  });
  return squares.map(Math.sqrt);
}
