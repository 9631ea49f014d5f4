import { strict as assert } from 'node:assert';
import { readFile, writeFile } from 'node:fs/promises';
import type { TokenIds } from '../../lib/checkpoint/tokenizer.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import type { GenerateOptions } from '../../lib/model/generate.ts';
import { Model } from '../../lib/model/model.ts';
import { evaluationText, moeError, tinyModel, withCopy } from './support.ts';

const prompt = 'export interface ';

async function collect(
  model: Model,
  from: string | TokenIds,
  options: GenerateOptions,
): Promise<{ text: string; ids: number[] }> {
  const result = { text: '', ids: [] as number[] };
  for await (const { text, id } of model.generate(from, options)) {
    result.text += text;
    result.ids.push(id);
  }
  return result;
}

describe('Model.generate', () => {
  let device: Device;
  let model: Model;
  before(async () => {
    device = await openDevice('cpu');
    model = await Model.open(tinyModel, { device });
  });
  after(async () => {
    await model.dispose();
    device.dispose();
  });

  it('is greedy at temperature 0, the same at every call, and takes the most likely token', async () => {
    const first = await collect(model, prompt, { maxTokens: 24 });
    assert.equal(first.ids.length, 24);
    assert.deepEqual(await collect(model, prompt, { maxTokens: 24, seed: 9 }), first);
    const ids = model.tokenizer.encode(prompt);
    const { data, shape } = await model.logits(ids);
    const last = data.subarray((shape[0] - 1) * shape[1]);
    assert.equal(first.ids[0], last.indexOf(last.reduce((most, logit) => Math.max(most, logit))));
  });

  it('streams the text of the ids', async () => {
    for (const text of [prompt, '// naïve – 日本 🦔']) {
      const { text: streamed, ids } = await collect(model, text, { maxTokens: 64, temperature: 1.5, seed: 3 });
      assert.equal(streamed, model.tokenizer.decode(ids, { skipSpecialTokens: true }));
    }
  });

  it('takes ids as a prompt', async () => {
    const ids = model.tokenizer.encode(prompt);
    assert.deepEqual(await collect(model, ids, { maxTokens: 8 }), await collect(model, prompt, { maxTokens: 8 }));
  });

  it('repeats a seed and differs between seeds', async () => {
    const run = (seed: number) => collect(model, prompt, { maxTokens: 32, temperature: 1, topP: 0.95, seed });
    const first = await run(1);
    assert.deepEqual(await run(1), first);
    assert.notDeepEqual((await run(2)).ids, first.ids);
  });

  it('gives the same texts when calls run at once', async () => {
    const prompts = ['import { ', 'def ', 'class ', 'function '];
    const alone = [];
    for (const text of prompts) alone.push(await collect(model, text, { maxTokens: 16 }));
    const together = await Promise.all(prompts.map((text) => collect(model, text, { maxTokens: 16 })));
    assert.deepEqual(together, alone);
  });

  it('continues long prompts in chunks, and grows its cache', async () => {
    const ids = model.tokenizer.encode(await evaluationText('python')).subarray(0, 600);
    const { ids: generated } = await collect(model, ids, { maxTokens: 400, stopAtEos: false });
    assert.equal(generated.length, 400);
    const all = [...ids, ...generated];
    const { data, shape } = await model.logits(all.slice(0, -1));
    for (const [index, id] of generated.entries()) {
      const row = data.subarray((ids.length - 1 + index) * shape[1], (ids.length + index) * shape[1]);
      assert.equal(id, row.indexOf(row.reduce((most, logit) => Math.max(most, logit))), `token ${index}`);
    }
  });

  it('ends with an end-of-text id, unless told otherwise', async () => {
    const { ids } = await collect(model, prompt, { maxTokens: 12, stopAtEos: false });
    const end = ids.find((id, index) => index >= 2 && ids.indexOf(id) === index) as number;
    const change = async (copy: string) => {
      await writeFile(`${copy}/generation_config.json`, JSON.stringify({ eos_token_id: [end] }));
      await using other = await Model.open(copy, { device });
      assert.deepEqual((await collect(other, prompt, { maxTokens: 12 })).ids, ids.slice(0, ids.indexOf(end) + 1));
      assert.deepEqual((await collect(other, prompt, { maxTokens: 12, stopAtEos: false })).ids, ids);
    };
    await withCopy(tinyModel, () => {}, change);
  });

  it('goes on over ids that the tokenizer lacks; their text is empty', async () => {
    const from = model.tokenizer.encode(prompt);
    const { ids } = await collect(model, from, { maxTokens: 8 });
    const lost = ids[1] as number;
    await withCopy(
      tinyModel,
      () => {},
      async (copy) => {
        const file = `${copy}/tokenizer.json`;
        const content = JSON.parse(await readFile(file, 'utf8'));
        const [token] = Object.entries(content.model.vocab).find(([, id]) => id === lost) as [string, number];
        delete content.model.vocab[token];
        content.model.merges = content.model.merges.filter(
          ([a, b]: [string, string]) => a !== token && b !== token && a + b !== token,
        );
        await writeFile(file, JSON.stringify(content));
        await using other = await Model.open(copy, { device });
        assert.equal(other.tokenizer.has(lost), false);
        const found = await collect(other, from, { maxTokens: 8 });
        assert.deepEqual(found.ids, ids);
        assert.equal(found.text, other.tokenizer.decode(ids.filter((id) => id !== lost)));
      },
    );
  });

  it('stops within the context', async () => {
    const ids = new Int32Array(1020).fill(5);
    assert.equal((await collect(model, ids, { stopAtEos: false })).ids.length, 4);
    await assert.rejects(collect(model, ids, { maxTokens: 5 }), moeError('CONTEXT_EXCEEDED', /1024/));
    await assert.rejects(collect(model, new Int32Array(1025), {}), moeError('CONTEXT_EXCEEDED', /1024/));
    assert.deepEqual((await collect(model, prompt, { maxTokens: 0 })).ids, []);
  });

  it('obeys its signal, before and between tokens', async () => {
    await assert.rejects(collect(model, prompt, { signal: AbortSignal.abort(new Error('never')) }), /never/);
    const controller = new AbortController();
    let count = 0;
    const stopped = (async () => {
      for await (const _ of model.generate(prompt, { signal: controller.signal })) {
        if (++count === 3) controller.abort(new Error('enough'));
      }
    })();
    await assert.rejects(stopped, /enough/);
    assert.equal(count, 3);
  });

  it('gives its cache back when the reader stops early', async () => {
    const held = model.memory().cache;
    for await (const _ of model.generate(prompt, { maxTokens: 8 })) break;
    for await (const _ of model.generate(prompt, { maxTokens: 8 })) break;
    assert.equal(model.memory().cache, held);
  });

  it('refuses bad arguments', async () => {
    await assert.rejects(collect(model, '', {}), moeError('INVALID_ARGUMENT', /prompt/));
    await assert.rejects(collect(model, [2048], {}), moeError('INVALID_ARGUMENT', /prompt\[0\]/));
    await assert.rejects(collect(model, [-1], {}), moeError('INVALID_ARGUMENT', /prompt\[0\]/));
    await assert.rejects(collect(model, 7 as unknown as string, {}), moeError('INVALID_ARGUMENT', /prompt/));
    for (const [name, value] of [
      ['maxTokens', -1],
      ['maxTokens', 1.5],
      ['temperature', Number.NaN],
      ['temperature', -1],
      ['topP', 0],
      ['topP', 1.1],
      ['seed', 0.5],
    ] as const) {
      await assert.rejects(collect(model, prompt, { [name]: value }), moeError('INVALID_ARGUMENT', new RegExp(name)));
    }
  });
});
