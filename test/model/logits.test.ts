import { strict as assert } from 'node:assert';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { type CacheDtype, KvCache } from '../../lib/model/kv-cache.ts';
import { Model } from '../../lib/model/model.ts';
import type { ModelWeights } from '../../lib/model/weights.ts';
import type { Tensor } from '../../lib/tensor/tensor.ts';
import { evaluationText, goldenFolder, moeError, tinyModel, withCopy } from './support.ts';

describe('Model.logits', () => {
  let device: Device;
  let ids: Int32Array;
  before(async () => {
    device = await openDevice('cpu');
    await using model = await Model.open(tinyModel, { device });
    ids = model.tokenizer.encode(await evaluationText('types')).subarray(0, 700);
  });
  after(() => device.dispose());

  for (const [name, weights] of [
    ['as stored', undefined],
    ['int8', { format: 'int8' }],
    ['int4', { format: 'int4' }],
  ] as const satisfies readonly (readonly [string, ModelWeights | undefined])[]) {
    it(`are bitwise the same token by token, in chunks and at once (${name})`, async () => {
      await using model = await Model.open(tinyModel, { device, weights });
      const { vocabulary } = model.config;
      const { data } = await model.logits(ids);
      // Greedy generation after a prefix runs one token at a time; its choices must be those of the whole.
      for (const length of [1, 7, 8, 65, 512, 513]) {
        const { data: prefix } = await model.logits(ids.subarray(0, length));
        assert.ok(
          Buffer.from(prefix.buffer).equals(Buffer.from(data.buffer, 0, prefix.byteLength)),
          `${length} tokens`,
        );
      }
      const rows = await stepByStep(model, ids.subarray(0, 40));
      assert.ok(Buffer.from(rows.buffer).equals(Buffer.from(data.buffer, 0, 40 * vocabulary * 4)));
    });
  }

  it('do not depend on what else is in the run', async () => {
    await using model = await Model.open(tinyModel, { device });
    const windows = [ids.subarray(0, 100), ids.subarray(100, 101), ids.subarray(101, 140), ids.subarray(140, 700)];
    const observe = async (which: readonly Int32Array[]): Promise<Float32Array> => {
      const parts: Float32Array[] = [];
      await model.observe(
        which,
        (graph, { layer, input }) => {
          if (layer === 3) graph.output('input', input);
        },
        { onOutputs: async ({ input }) => void parts.push(await (input as Tensor<'f32'>).read()) },
      );
      return Float32Array.from(parts.flatMap((part) => Array.from(part)));
    };
    const together = await observe(windows);
    const alone = [];
    for (const window of windows) alone.push(...(await observe([window])));
    assert.deepEqual(together, Float32Array.from(alone));
  });

  it('are bitwise the same for 1, 2 and 3 threads', async () => {
    const results = [];
    for (const threads of [1, 2, 3]) {
      await using other = await openDevice('cpu', { threads });
      await using model = await Model.open(tinyModel, { device: other, weights: { format: 'int4' } });
      results.push((await model.logits(ids.subarray(0, 300))).data);
    }
    assert.deepEqual(results[1], results[0]);
    assert.deepEqual(results[2], results[0]);
  });

  it('see no further back than the sliding window, through all layers', async () => {
    await withCopy(
      goldenFolder('mixtral'),
      (config) => void Object.assign(config, { sliding_window: 8 }),
      async (copy) => {
        await using model = await Model.open(copy, { device });
        const { vocabulary, layers } = model.config;
        const text = Int32Array.from({ length: 100 }, (_, index) => (index * 37) % 61);
        const { data: before } = await model.logits(text);
        text[30] = 62;
        const { data: after } = await model.logits(text);
        const changed = Array.from(text, (_, token) => {
          const row = (data: Float32Array) => data.subarray(token * vocabulary, (token + 1) * vocabulary);
          return row(before).some((logit, id) => logit !== row(after)[id]);
        });
        assert.equal(changed.indexOf(true), 30);
        // Each layer carries a token 7 places on.
        assert.equal(changed.lastIndexOf(true), 30 + 7 * layers.length);
      },
    );
  });

  it('of no tokens are empty; beyond the context an error', async () => {
    await using model = await Model.open(tinyModel, { device });
    const { data, shape } = await model.logits([]);
    assert.deepEqual([data.length, shape], [0, [0, 2048]]);
    await assert.rejects(model.logits(new Int32Array(1025)), moeError('CONTEXT_EXCEEDED', /1024/));
    await assert.rejects(model.logits([0, 2048]), moeError('INVALID_ARGUMENT', /ids\[1\]/));
    await assert.rejects(model.logits([0.5]), moeError('INVALID_ARGUMENT', /ids\[0\]/));
  });

  it('keep half of the bytes in a cache of bf16, near those of f32', async () => {
    const text = ids.subarray(0, 200);
    await using exact = await Model.open(tinyModel, { device });
    await using halved = await Model.open(tinyModel, { device, cache: 'bf16' });
    const [{ data: expected }, { data }] = [await exact.logits(text), await halved.logits(text)];
    assert.equal(halved.memory().cache, exact.memory().cache / 2);
    assert.notDeepEqual(data, expected);
    const norm = (values: Float32Array): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
    const error = norm(data.map((logit, at) => logit - (expected[at] as number))) / norm(expected);
    assert.ok(error < 2 ** -8, `${error}`);
    // A token sees the same keys and values whether they were stored before its run or in it.
    assert.deepEqual(await stepByStep(halved, text, 'bf16'), data);
    const { layers } = await halved.trace(text, { include: ['hidden'] });
    assert.equal(layers.length, 4);
    await assert.rejects(
      Model.open(tinyModel, { device, cache: 'int4' as never }),
      moeError('INVALID_ARGUMENT', /cache/),
    );
  });

  it('lose little to an int8 cache, a step a head', async () => {
    const text = ids.subarray(0, 200);
    await using exact = await Model.open(tinyModel, { device });
    await using coded = await Model.open(tinyModel, { device, cache: 'int8' });
    const [before, after] = [await exact.evaluate(text, { window: 128 }), await coded.evaluate(text, { window: 128 })];
    const { headDim } = exact.config.attention;
    assert.equal(coded.memory().cache * 4 * headDim, exact.memory().cache * (headDim + 4));
    assert.notEqual(after.nll, before.nll);
    assert.ok(Math.abs(after.nll - before.nll) < 0.005, `${after.nll - before.nll}`);
    const { data } = await coded.logits(text);
    assert.deepEqual(await stepByStep(coded, text, 'int8'), data);
  });

  it('keep their keys and values when the cache grows', async () => {
    await using model = await Model.open(tinyModel, { device });
    const cache = new KvCache(device, model.config, 16);
    const state = cache.states['keys.0'] as Tensor<'f32'>;
    const content = Float32Array.from({ length: state.length }, (_, index) => index);
    await state.write(content);
    const first = cache.sequence();
    const second = cache.sequence();
    await cache.reserve(first, 16);
    await cache.reserve(second, 33);
    assert.equal(new Set([...first.pages, ...second.pages]).size, 4);
    const grown = cache.states['keys.0'] as Tensor<'f32'>;
    assert.deepEqual((await grown.read()).subarray(0, content.length), content);
    cache.release(second);
    const { pages } = cache;
    await cache.reserve(first, 64);
    assert.equal(cache.pages, pages);
    cache.dispose();
  });
});

/** Logits [tokens, vocabulary] from runs of one token each. */
async function stepByStep(model: Model, ids: Int32Array, dtype?: CacheDtype): Promise<Float32Array> {
  const { vocabulary } = model.config;
  const rows = new Float32Array(ids.length * vocabulary);
  const cache = new KvCache(model.device, model.config, ids.length, dtype);
  const sequence = cache.sequence();
  for (let at = 0; at < ids.length; at++) {
    const row = rows.subarray(at * vocabulary, (at + 1) * vocabulary);
    await model.runner.logits([{ sequence, ids: ids.subarray(at, at + 1) }], row, { cache });
  }
  cache.dispose();
  return rows;
}
