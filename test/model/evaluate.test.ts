/** Quality of the tiny model, in each weight format, against the figures of transformers. */
import { strict as assert } from 'node:assert';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';
import type { ModelWeights } from '../../lib/model/weights.ts';
import { evaluationText, expectedNll, kinds, moeError, tinyModel } from './support.ts';

describe('Model.evaluate on cpu', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('cpu');
  });
  after(() => device.dispose());

  /** Differences of the NLL a text. */
  async function differences(weights: ModelWeights | undefined): Promise<number[]> {
    await using model = await Model.open(tinyModel, { device, weights });
    const expected = await expectedNll();
    const found: number[] = [];
    for (const kind of kinds) {
      const { nll, tokens } = await model.evaluate(model.tokenizer.encode(await evaluationText(kind)), { windows: 8 });
      assert.equal(tokens, 8 * 255);
      found.push(nll - expected[kind]);
    }
    return found;
  }

  it('as stored (bf16), within 0.002', async () => {
    for (const difference of await differences(undefined)) assert.ok(Math.abs(difference) <= 0.002, `${difference}`);
  });

  it('int8 experts, within 0.005', async () => {
    for (const difference of await differences({ format: 'int8' }))
      assert.ok(Math.abs(difference) <= 0.005, `${difference}`);
  });

  it('int4 experts in groups of 32, at most 0.03 above', async () => {
    for (const difference of await differences({ format: 'int4', groupSize: 32 }))
      assert.ok(difference <= 0.03, `${difference}`);
  });

  it('takes any window, in one run or several', async () => {
    await using model = await Model.open(tinyModel, { device });
    const ids = model.tokenizer.encode(await evaluationText('node')).subarray(0, 1500);
    for (const window of [2, 33, 512, 513, 1024]) {
      const { nll, tokens } = await model.evaluate(ids, { window, windows: 4 });
      const expected = await byLogits(model, ids, window);
      assert.equal(tokens, expected.tokens);
      assert.ok(Math.abs(nll - expected.nll) <= 1e-5, `window ${window}: ${nll}, by logits ${expected.nll}`);
    }
  });

  it('leaves a cache that every other call can take, also after many short windows', async () => {
    await using model = await Model.open(tinyModel, { device });
    const ids = new Int32Array(1024).map((_, i) => i % 50);
    const alone = (await model.logits([1, 2, 3])).data;
    await model.evaluate(ids, { window: 2 });
    assert.deepEqual((await model.logits([1, 2, 3])).data, alone);
    for await (const { id } of model.generate([1, 2, 3], { maxTokens: 2 })) assert.ok(id >= 0);
    await model.evaluate(ids, { window: 1024 });
  });

  it('reports progress and obeys its signal', async () => {
    await using model = await Model.open(tinyModel, { device });
    const ids = model.tokenizer.encode(await evaluationText('node'));
    const seen: string[] = [];
    await model.evaluate(ids, {
      windows: 4,
      onProgress: ({ phase, done, total }) => seen.push(`${phase} ${done}/${total}`),
    });
    assert.deepEqual(seen, ['evaluate 2/4', 'evaluate 4/4']);
    const controller = new AbortController();
    const stopped = model.evaluate(ids, {
      signal: controller.signal,
      onProgress: () => controller.abort(new Error('enough')),
    });
    await assert.rejects(stopped, /enough/);
  });

  it('refuses texts and windows that cannot be scored', async () => {
    await using model = await Model.open(tinyModel, { device });
    await assert.rejects(model.evaluate(new Int32Array(255)), moeError('INVALID_ARGUMENT', /full window of 256/));
    await assert.rejects(model.evaluate(new Int32Array(9), { window: 1 }), moeError('INVALID_ARGUMENT', /window/));
    await assert.rejects(model.evaluate(new Int32Array(9), { window: 2.5 }), moeError('INVALID_ARGUMENT', /window/));
    await assert.rejects(
      model.evaluate(new Int32Array(9), { window: 2, windows: 0 }),
      moeError('INVALID_ARGUMENT', /windows/),
    );
    await assert.rejects(model.evaluate(new Int32Array(9), { window: 1025 }), moeError('CONTEXT_EXCEEDED', /1024/));
    await assert.rejects(model.evaluate([1, 2, 2048], { window: 2 }), moeError('INVALID_ARGUMENT', /ids\[2\]/));
  });
});

/** The same figure from whole logits. */
async function byLogits(model: Model, ids: Int32Array, window: number): Promise<{ nll: number; tokens: number }> {
  const { vocabulary } = model.config;
  let [sum, tokens] = [0, 0];
  for (let at = 0; at + window <= ids.length && at < 4 * window; at += window) {
    const part = ids.subarray(at, at + window);
    const { data } = await model.logits(part);
    for (let i = 0; i + 1 < window; i++) {
      const row = data.subarray(i * vocabulary, (i + 1) * vocabulary);
      const highest = row.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
      const total = row.reduce((share, value) => share + Math.exp(value - highest), 0);
      sum += highest + Math.log(total) - (row[part[i + 1] as number] as number);
      tokens++;
    }
  }
  return { nll: sum / tokens, tokens };
}
