/** Scores of continuations against the logits of the whole texts. */
import { strict as assert } from 'node:assert';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';
import { evaluationText, moeError, tinyModel } from './support.ts';

describe('Model.score', () => {
  let device: Device;
  let model: Model;
  let text: Int32Array;
  before(async () => {
    device = await openDevice('cpu');
    model = await Model.open(tinyModel, { device });
    text = model.tokenizer.encode(await evaluationText('types'));
  });
  after(async () => {
    await model.dispose();
    device.dispose();
  });

  /** What scoring must give, from the logits of prompt and continuation at once. */
  async function expected(ids: Int32Array, begin: number): Promise<{ perToken: number[]; greedy: boolean }> {
    const { data, shape } = await model.logits(ids);
    const perToken: number[] = [];
    let greedy = true;
    for (let place = begin; place < ids.length; place++) {
      const row = Array.from(data.subarray((place - 1) * shape[1], place * shape[1]));
      const peak = row.reduce((a, b) => Math.max(a, b));
      const sum = row.reduce((total, logit) => total + Math.exp(logit - peak), 0);
      perToken.push((row[ids[place] as number] as number) - peak - Math.log(sum));
      greedy &&= row.indexOf(peak) === ids[place];
    }
    return { perToken, greedy };
  }

  const cases: [name: string, prompt: number, lengths: number[]][] = [
    ['a prompt of one token', 1, [1, 3]],
    ['a prompt that ends with a page', 16, [2, 1, 5]],
    ['a prompt that ends inside a page', 37, [1, 20, 4]],
    ['a prompt longer than a run', 530, [3, 1, 40, 2]],
    ['continuations that fill several runs', 20, [200, 200, 200, 1]],
    ['a continuation longer than a run', 40, [600, 2]],
    ['one continuation', 100, [7]],
    ['many short ones after a long prompt', 600, Array.from({ length: 24 }, (_, index) => 1 + (index % 3))],
  ];
  for (const [name, prompt, lengths] of cases) {
    it(`${name}: bitwise what the whole texts' logits say`, async () => {
      const head = text.subarray(0, prompt);
      const tails = lengths.map((length, index) => text.subarray(700 + 3 * index, 700 + 3 * index + length));
      const scores = await model.score(head, tails);
      assert.equal(scores.length, tails.length);
      for (const [index, tail] of tails.entries()) {
        const { perToken, greedy } = await expected(Int32Array.of(...head, ...tail), prompt);
        const score = scores[index];
        assert.deepEqual(Array.from(score?.perToken ?? []), perToken);
        assert.equal(
          score?.logLikelihood,
          perToken.reduce((sum, value) => sum + value, 0),
        );
        assert.equal(score?.tokens, tail.length);
        assert.deepEqual(score?.ids, tail);
        assert.equal(score?.greedy, greedy);
      }
    });
  }

  it('says which continuation greedy decoding gives', async () => {
    const prompt = text.subarray(0, 50);
    const greedy: number[] = [];
    for await (const { id } of model.generate(prompt, { maxTokens: 6, stopAtEos: false })) greedy.push(id);
    const other = greedy.with(-1, ((greedy.at(-1) as number) + 1) % model.config.vocabulary);
    const [same, differs] = await model.score(prompt, [greedy, other]);
    assert.deepEqual([same?.greedy, differs?.greedy], [true, false]);
  });

  it('encodes two texts together and splits where the prompt still stands', async () => {
    const [prompt, continuation] = ['export inter', 'face Node'];
    const { tokenizer } = model;
    const [head, whole] = [tokenizer.encode(prompt), tokenizer.encode(prompt + continuation)];
    let begin = 0;
    while (head[begin] === whole[begin]) begin++;
    assert.ok(begin > 0 && begin < head.length, 'the boundary lies inside a token');
    const [score] = await model.score(prompt, [continuation]);
    assert.deepEqual(score?.ids, whole.slice(begin));
    assert.deepEqual(Array.from(score?.perToken ?? []), (await expected(whole, begin)).perToken);
    const [appended] = await model.score(head, [continuation]);
    assert.deepEqual(appended?.ids, tokenizer.encode(continuation, { addSpecialTokens: false }));
    assert.deepEqual(await model.score(prompt, []), []);
  });

  it('reports progress and stops at an abort', async () => {
    const seen: number[] = [];
    const tails = [text.subarray(0, 300), text.subarray(300, 600), text.subarray(9, 10)];
    await model.score(text.subarray(0, 20), tails, {
      onProgress: ({ phase, done, total }) => {
        assert.deepEqual([phase, total], ['score', 3]);
        seen.push(done);
      },
    });
    assert.deepEqual(seen, [1, 3]);
    const abort = new AbortController();
    const reason = new Error('enough');
    const onProgress = (): void => abort.abort(reason);
    await assert.rejects(model.score(text.subarray(0, 20), tails, { signal: abort.signal, onProgress }), reason);
    await assert.rejects(model.score([1], [[2]], { signal: AbortSignal.abort(reason) }), reason);
    // The cache of an aborted call is whole again.
    assert.equal((await model.score([1], [[2]])).length, 1);
  });

  it('refuses what it cannot score', async () => {
    const { context, vocabulary } = model.config;
    const refused = (...args: unknown[]) => (model.score as (...all: unknown[]) => Promise<unknown>).apply(model, args);
    await assert.rejects(refused('', ['a']), moeError('INVALID_ARGUMENT', /prompt/));
    await assert.rejects(refused([], [[1]]), moeError('INVALID_ARGUMENT', /prompt/));
    await assert.rejects(refused('inter', ['face']), moeError('INVALID_ARGUMENT', /prompt.*no continuation changes/));
    await assert.rejects(refused('a b', ['c', '']), moeError('INVALID_ARGUMENT', /continuations\[1\]/));
    await assert.rejects(refused([1], [[]]), moeError('INVALID_ARGUMENT', /continuations\[0\]/));
    await assert.rejects(refused([1], [[vocabulary]]), moeError('INVALID_ARGUMENT', /continuations\[0\]\[0\]/));
    await assert.rejects(refused([1], 'text'), moeError('INVALID_ARGUMENT', /continuations/));
    await assert.rejects(refused([1], [7]), moeError('INVALID_ARGUMENT', /continuations\[0\]/));
    await assert.rejects(refused(7, [[1]]), moeError('INVALID_ARGUMENT', /prompt/));
    await assert.rejects(refused([1], [[1]], { signal: 1 }), moeError('INVALID_ARGUMENT', /signal/));
    await assert.rejects(refused([1], [[1]], null), moeError('INVALID_ARGUMENT', /options/));
    const long = new Array(context).fill(1);
    await assert.rejects(refused([1], [[1], long]), moeError('CONTEXT_EXCEEDED', /continuations\[1\]/));
  });
});
