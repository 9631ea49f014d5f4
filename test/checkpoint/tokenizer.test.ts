import { strict as assert } from 'node:assert';
import { cp, mkdir, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { Tokenizer } from '../../lib/checkpoint/tokenizer.ts';
import { MoeError } from '../../lib/errors.ts';
import { inFolder, moeError, root, tinyModel } from './support.ts';

const texts = join(root, 'examples/text');
type Json = Record<string, unknown>;

describe('Tokenizer', () => {
  let tokenizer: Tokenizer;
  let content: Json;
  before(async () => {
    tokenizer = await Tokenizer.load(tinyModel);
    content = JSON.parse(await readFile(join(tinyModel, 'tokenizer.json'), 'utf8')) as Json;
  });

  /** Loads the tiny tokenizer with other files in place of its own. */
  async function load(files: Record<string, unknown>, config: Json = {}): Promise<Tokenizer> {
    return inFolder(async (folder) => {
      for (const [name, value] of Object.entries({ 'tokenizer.json': content, ...files })) {
        if (value === undefined) continue;
        await writeFile(
          join(folder, name),
          typeof value === 'string' || value instanceof Uint8Array ? value : JSON.stringify(value),
        );
      }
      return Tokenizer.load(folder, config);
    });
  }

  it('knows its vocabulary and the end of a text', async () => {
    assert.equal(tokenizer.vocabularySize, 2048);
    assert.deepEqual(tokenizer.eosIds, [0]);
    const checkpoint = await Checkpoint.open(tinyModel);
    assert.equal(await checkpoint.tokenizer(), await checkpoint.tokenizer());
    assert.deepEqual((await checkpoint.tokenizer()).eosIds, [0]);
    checkpoint.close();
  });

  it('gives known ids', async () => {
    // Of this library, which gave the ids of the reference tokenizer on all 76,800 tokens of 300 held-out windows.
    const code = 'export function merge(a: Float32Array): number {\n\treturn a.length;  // 12 néw\n}\n';
    const codeIds = [
      367, 654, 613, 345, 261, 322, 8, 65, 26, 580, 1602, 1356, 812, 318, 505, 321, 199, 198, 2045, 273, 14, 782, 27,
      221, 533, 514, 18, 294, 128, 103, 87, 199, 93, 199,
    ];
    assert.deepEqual([...tokenizer.encode(code)], codeIds);
    const script = "    def __init__(self):\r\n        raise ValueError('日本')\n";
    const scriptIds = [
      259, 402, 667, 953, 792, 302, 318, 202, 278, 672, 1327, 433, 163, 246, 99, 163, 251, 106, 530, 199,
    ];
    assert.deepEqual([...tokenizer.encode(script)], scriptIds);
  });

  it('gives as many tokens as the reference implementation counted', async () => {
    const { own } = JSON.parse(await readFile(join(tinyModel, 'nll.json'), 'utf8')) as {
      own: { windows: Record<string, number> };
    };
    for (const [source, windows] of Object.entries(own.windows)) {
      const text = await readFile(join(texts, `${source}.evaluate.txt`), 'utf8');
      assert.equal(Math.floor(tokenizer.encode(text).length / 256), windows, source);
    }
  });

  it('gives back every text', async () => {
    for (const name of await readdir(texts)) {
      const text = await readFile(join(texts, name), 'utf8');
      const ids = tokenizer.encode(text);
      assert.ok(ids.length > text.length / 6 && ids.length < text.length, name);
      assert.equal(tokenizer.decode(ids), text, name);
    }
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        assert.equal(tokenizer.decode(tokenizer.encode(text)), text);
      }),
    );
  });

  it('encodes 280 KB within 3 s', async () => {
    const parts = await Promise.all((await readdir(texts)).map((name) => readFile(join(texts, name), 'utf8')));
    const text = parts.join('').repeat(2).slice(0, 280_000);
    assert.equal(text.length, 280_000);
    const start = performance.now();
    tokenizer.encode(text);
    assert.ok(performance.now() - start < 3000);
  });

  it('knows special tokens in a text and leaves them out on request', () => {
    const ids = tokenizer.encode('a<|endoftext|>b');
    assert.equal(ids[1], 0);
    assert.equal(tokenizer.decode(ids), 'a<|endoftext|>b');
    assert.equal(tokenizer.decode(ids, { skipSpecialTokens: true }), 'ab');
    assert.equal(tokenizer.decode([0], { skipSpecialTokens: true }), '');
    assert.equal(tokenizer.decode([]), '');
    assert.equal(tokenizer.encode('').length, 0);
  });

  it('streams without splitting a character', () => {
    const whole = 'héllo 🙂👩‍👩‍👧 \uFFFD\uFFFD \uFEFFx <|endoftext|> 日本語';
    const stream = tokenizer.decodeStream();
    const pieces = [...tokenizer.encode(whole)].map((id) => stream.push(id));
    assert.equal(stream.end(), '');
    assert.equal(pieces.join(''), whole);
    assert.ok(pieces.includes('🙂') && pieces.includes('日'));
  });

  it('streams any ids to the same text as decoding them at once', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(2047), { maxLength: 40 }), fc.boolean(), (ids, skipSpecialTokens) => {
        const stream = tokenizer.decodeStream({ skipSpecialTokens });
        const pieces = ids.map((id) => stream.push(id));
        assert.equal(pieces.join('') + stream.end(), tokenizer.decode(ids, { skipSpecialTokens }));
      }),
    );
  });

  it('ends a stream inside a character with U+FFFD', () => {
    const stream = tokenizer.decodeStream();
    assert.equal(stream.push(tokenizer.encode('🙂')[0] as number), '');
    assert.equal(stream.end(), '\uFFFD');
    assert.equal(stream.end(), '');
  });

  it('refuses ids outside the vocabulary and texts that are none', () => {
    for (const id of [-1, 2048, 0.5, Number.NaN, Infinity, 2 ** 40, '1', undefined]) {
      assert.throws(() => tokenizer.decode([1, id as number]), moeError('INVALID_ARGUMENT', /ids/), String(id));
      assert.throws(() => tokenizer.decodeStream().push(id as number), moeError('INVALID_ARGUMENT', /ids/));
    }
    for (const text of [undefined, null, 3, ['a']] as unknown[]) {
      assert.throws(() => tokenizer.encode(text as string), moeError('INVALID_ARGUMENT', /text/));
    }
  });

  it('takes end-of-text ids from the first file that names them', async () => {
    const settings = { 'tokenizer_config.json': { eos_token: '<|endoftext|>' } };
    assert.deepEqual((await load(settings)).eosIds, [0]);
    assert.deepEqual(
      (await load({ 'tokenizer_config.json': { eos_token: { content: '<|endoftext|>' } } })).eosIds,
      [0],
    );
    assert.deepEqual((await load({ 'tokenizer_config.json': { eos_token: 'x y z' } })).eosIds, []);
    assert.deepEqual((await load(settings, { eos_token_id: 7 })).eosIds, [7]);
    assert.deepEqual(
      (await load({ ...settings, 'generation_config.json': { eos_token_id: [3, 4] } }, { eos_token_id: 7 })).eosIds,
      [3, 4],
    );
    assert.deepEqual((await load({ 'generation_config.json': { eos_token_id: null } })).eosIds, []);
    for (const id of [-1, 'a', 0.5, [1, 'a'], {}, 1e9]) {
      await assert.rejects(
        load({ 'generation_config.json': { eos_token_id: id } }),
        moeError('CONFIG_INVALID', /eos_token_id/),
      );
      await assert.rejects(load({}, { eos_token_id: id }), moeError('CONFIG_INVALID', /eos_token_id/));
    }
  });

  it('answers a missing or broken file with TOKENIZER_INVALID', async () => {
    const model = content.model as Json;
    const withModel = (change: Json): Json => ({ ...content, model: { ...model, ...change } });
    const broken: unknown[] = [
      undefined,
      '',
      '{',
      '[]',
      'null',
      '{}',
      Uint8Array.of(0x7b, 0xff),
      { ...content, model: null },
      { ...content, model: 'BPE' },
      { ...content, added_tokens: undefined },
      { ...content, added_tokens: [null] },
      { ...content, added_tokens: [{ id: 0, content: '' }] },
      { ...content, added_tokens: [{ id: 1e12, content: 'a' }] },
      { ...content, added_tokens: [{ id: -1, content: 'a' }] },
      { ...content, pre_tokenizer: { type: 'Unheard' } },
      { ...content, pre_tokenizer: { type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated' } },
      { ...content, decoder: { type: 'Unheard' } },
      { ...content, normalizer: 3 },
      { ...content, post_processor: { type: 'Unheard' } },
      withModel({ vocab: null }),
      withModel({ vocab: {} }),
      withModel({ vocab: { a: 'b' } }),
      withModel({ vocab: { a: -1 } }),
      withModel({ vocab: { a: 1e12 } }),
      withModel({ vocab: { a: 1, b: 1 } }),
      withModel({ vocab: ['a'] }),
      withModel({ merges: undefined }),
      withModel({ merges: 'a b' }),
      withModel({ merges: [3] }),
      withModel({ merges: [['a']] }),
      withModel({ type: 'Unheard', merges: [] }),
    ];
    for (const file of broken) {
      await assert.rejects(
        load({ 'tokenizer.json': file }),
        moeError('TOKENIZER_INVALID', /tokenizer\.json/),
        `file ${broken.indexOf(file)}`,
      );
    }
    await assert.rejects(
      load({ 'tokenizer_config.json': '{' }),
      moeError('TOKENIZER_INVALID', /tokenizer_config\.json/),
    );
    await assert.rejects(
      load({ 'generation_config.json': '{' }),
      moeError('CONFIG_INVALID', /generation_config\.json/),
    );
    await inFolder(async (folder) => {
      await mkdir(join(folder, 'tokenizer.json'));
      await assert.rejects(Tokenizer.load(folder), moeError('FILE_UNREADABLE', /regular file/));
    });
  });

  it('refuses a file of absurd size unread', () =>
    inFolder(async (folder) => {
      await cp(join(tinyModel, 'tokenizer.json'), join(folder, 'tokenizer.json'));
      await truncate(join(folder, 'tokenizer.json'), 300_000_000);
      await assert.rejects(Tokenizer.load(folder), moeError('FILE_UNREADABLE', /at most 200000000/));
    }));

  it('answers random changes of the file with a MoeError or works', async () => {
    const small = {
      ...content,
      model: { ...(content.model as Json), vocab: { a: 1, b: 2, ab: 3, Ġ: 4 }, merges: [['a', 'b']] },
    };
    const paths: [string, ...string[]][] = [
      ['model', 'vocab'],
      ['model', 'merges'],
      ['model', 'type'],
      ['model', 'unk_token'],
      ['model', 'byte_fallback'],
      ['added_tokens'],
      ['pre_tokenizer'],
      ['pre_tokenizer', 'type'],
      ['decoder'],
      ['decoder', 'type'],
      ['post_processor', 'single'],
      ['normalizer'],
      ['model'],
    ];
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...paths), fc.jsonValue({ maxDepth: 2 }), async (path, value) => {
        const changed = structuredClone(small) as Json;
        let at = changed;
        for (const key of path.slice(0, -1)) at = at[key] as Json;
        at[path.at(-1) as string] = value;
        try {
          const other = await load({ 'tokenizer.json': changed });
          const ids = other.encode('ab ba c<|endoftext|>');
          other.decode(ids);
        } catch (error) {
          if (!(error instanceof MoeError) || error.code !== 'TOKENIZER_INVALID') throw error;
        }
      }),
      { numRuns: 300 },
    );
  });
});
