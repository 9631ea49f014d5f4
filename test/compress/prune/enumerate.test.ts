import assert from 'node:assert/strict';
import fc from 'fast-check';
import { selectRows } from '../../../lib/compress/group/router.ts';
import { binomial, DropSetLosses } from '../../../lib/compress/prune/enumerate.ts';
import { closeTo, goldenCase, slice } from '../golden-case.ts';
import { choicesOf, expertRows, productsOf, softmaxOf } from '../golden-layer.ts';

describe('losses of all drop sets', () => {
  it('agree with the published code, and so do the best set and its router', async () => {
    const golden = await goldenCase('expert-sparsity');
    const [gate, up, down, router] = ['gate', 'up', 'down', 'router'].map((name) => golden.tensor(name));
    assert.ok(gate && up && down && router);
    const x = golden.tensor('x').values;
    const [experts = 0, , size = 0] = gate.shape;
    const logits = Float32Array.from(productsOf(x, router.values, size));
    const rows = Array.from({ length: experts }, (_, e) =>
      expertRows({ gate: slice(gate, e), up: slice(up, e), down: slice(down, e) }, x, size),
    );
    const outputs = Float32Array.from({ length: rows.length * x.length }, (_, at) => {
      const [token, expert] = [Math.floor(at / (experts * size)), Math.floor(at / size) % experts];
      return rows[expert]?.[token * size + (at % size)] as number;
    });
    const losses = new DropSetLosses({ experts, dropped: 3, topK: 2 });
    let begin = 0;
    for (const tokens of golden.tensor('batch_tokens').values) {
      const end = begin + tokens;
      await losses.add({
        logits: logits.subarray(begin * experts, end * experts),
        outputs: outputs.subarray(begin * experts * size, end * experts * size),
      });
      begin = end;
    }
    assert.deepEqual(losses.sets.flat(), [...golden.tensor('combinations').values]);
    const want = golden.tensor('loss').values;
    closeTo(
      losses.losses.map((loss, set) => loss / (want[set] as number)),
      new Float64Array(35).fill(1),
      1e-5,
    );
    const dropped = [...golden.tensor('dropped').values];
    assert.deepEqual([...losses.best()], dropped);
    const kept = Array.from({ length: experts }, (_, expert) => expert).filter((expert) => !dropped.includes(expert));
    const pruned = selectRows(Float32Array.from(router.values), experts, kept);
    assert.deepEqual([...pruned], [...golden.tensor('pruned_router').values]);
  });

  it('are those of outputs computed in full, gates renormalized or not', async () => {
    const [experts, tokens, hidden, topK] = [5, 4, 3, 2];
    const numbers = (length: number) =>
      fc.float32Array({ minLength: length, maxLength: length, min: -3, max: 3, noNaN: true });
    await fc.assert(
      fc.asyncProperty(
        numbers(tokens * experts),
        numbers(tokens * experts * hidden),
        fc.boolean(),
        async (logits, outputs, renormalize) => {
          const losses = new DropSetLosses({ experts, dropped: 2, topK, renormalize });
          await losses.add({ logits, outputs });
          const original = layerOf(logits, outputs, [], renormalize);
          losses.sets.forEach((set, index) => {
            const pruned = layerOf(logits, outputs, set, renormalize);
            const change = Math.hypot(...pruned.map((value, i) => value - (original[i] as number)));
            closeTo([losses.losses[index] as number], [change], 1e-5);
          });
        },
      ),
    );

    function layerOf(
      logits: Float32Array,
      outputs: Float32Array,
      set: readonly number[],
      renormalize: boolean,
    ): Float64Array {
      const masked = Float64Array.from(logits, (logit, at) =>
        set.includes(at % experts) ? Number.NEGATIVE_INFINITY : logit,
      );
      const scores = softmaxOf(masked, experts);
      const result = new Float64Array(tokens * hidden);
      for (const [token, chosen] of choicesOf(masked, experts, topK).entries()) {
        const total = renormalize ? chosen.reduce((sum, e) => sum + (scores[token * experts + e] as number), 0) : 1;
        for (const expert of chosen) {
          for (let i = 0; i < hidden; i++) {
            const value = outputs[(token * experts + expert) * hidden + i] as number;
            result[token * hidden + i] =
              (result[token * hidden + i] as number) + ((scores[token * experts + expert] as number) / total) * value;
          }
        }
      }
      return result;
    }
  });

  it('are refused where too few experts stay or the sets are too many', async () => {
    for (const dropped of [0, 7, 2.5]) {
      assert.throws(() => new DropSetLosses({ experts: 8, dropped, topK: 2 }), { argument: 'experts' });
    }
    assert.throws(() => new DropSetLosses({ experts: 64, dropped: 32, topK: 8 }), {
      code: 'RECIPE_INVALID',
      message: /at most 100000 sets.*got 1832624140942590000 sets of 32 out of 64/,
    });
    const losses = new DropSetLosses({ experts: 4, dropped: 1, topK: 1 });
    for (const [logits, outputs] of [
      [3, 12],
      [4, 6],
      [4, 0],
    ] as const) {
      const given = { logits: new Float32Array(logits), outputs: new Float32Array(outputs) };
      await assert.rejects(losses.add(given), { code: 'INVALID_ARGUMENT', argument: 'outputs' });
    }
  });

  it('counts sets', () => {
    assert.deepEqual([binomial(16, 8), binomial(8, 4), binomial(5, 5)], [12870, 70, 1]);
  });
});
