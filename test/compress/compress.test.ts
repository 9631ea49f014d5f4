import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { OutputFolder } from '../../lib/checkpoint/folder.ts';
import { type CompressOptions, compress } from '../../lib/compress/compress.ts';
import { ModelWriter } from '../../lib/compress/model-writer.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { MoeError } from '../../lib/errors.ts';
import { Model } from '../../lib/model/model.ts';
import { shortWindows } from './short-windows.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const tiny = join(root, 'examples/models/tiny-qwen3-moe');
const texts = ['node', 'types'].map((name) => join(root, `examples/text/${name}.calibrate.txt`));

describe('compress', () => {
  let folder = '';
  let device: Device;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-compress-'));
    device = await openDevice('cpu', { threads: 2 });
  });
  after(async () => {
    device.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  const run = (source: string, options: Partial<CompressOptions>) =>
    compress(source, {
      out: join(folder, 'new'),
      groups: 8,
      calibrate: texts,
      calibrationTokens: 1024,
      device,
      force: true,
      ...options,
    });
  const hash = async (path: string): Promise<string> =>
    createHash('sha256')
      .update(await readFile(path))
      .digest('hex');
  const hashes = async (path: string): Promise<string[]> =>
    Promise.all((await readdir(path)).sort().map(async (name) => `${name} ${await hash(join(path, name))}`));
  const logits = async (path: string, ids: readonly number[]): Promise<Float32Array> => {
    await using model = await Model.open(path, { device });
    return (await model.logits(ids)).data;
  };
  const someIds = Array.from({ length: 24 }, (_, i) => (i * 7 + 3) % 60);

  it('the same bytes for 1 and 2 threads, from device to device', async () => {
    const [one, two] = [join(folder, 'one'), join(folder, 'two')];
    const single = await openDevice('cpu', { threads: 1 });
    await run(tiny, { out: one, device: single, weights: { format: 'int4' } });
    single.dispose();
    const result = await run(tiny, { out: two, weights: { format: 'int4' } });
    assert.deepEqual(await hashes(one), await hashes(two));
    const files = (await readdir(two)).filter((name) => name.endsWith('.safetensors'));
    const sizes = await Promise.all(files.map(async (name) => (await stat(join(two, name))).size));
    assert.equal(
      sizes.reduce((sum, size) => sum + size, 0),
      result.bytes.after,
    );
    assert.equal(files.length, 1 + 4);
    assert.equal((await stat(join(tiny, 'model.safetensors'))).size, result.bytes.before);
    const groups = result.layers.reduce((sum, layer) => sum + layer.groups, 0);
    assert.ok(groups <= 4 * 8);
    assert.equal(result.parameters.before - result.parameters.after, (4 * 16 - groups) * 3 * 128 * 128);
    const { moe } = JSON.parse(await readFile(join(two, 'config.json'), 'utf8'));
    assert.deepEqual(moe.recipe.calibration, { windows: 4, tokens: 1024, seed: 0 });
    assert.deepEqual(moe.layers[0].groupOf, result.layers[0]?.labels);
    assert.equal(await hash(join(two, 'tokenizer.json')), await hash(join(tiny, 'tokenizer.json')));
  });

  it('with as many groups as experts the logits stay bit for bit', async () => {
    const { out } = { out: join(folder, 'all') };
    const result = await run(tiny, { out, groups: 16 });
    assert.equal(result.parameters.before, result.parameters.after);
    assert.deepEqual(await logits(out, someIds), await logits(tiny, someIds));
  });

  it('the refit brings the calibration texts closer to the original', async () => {
    const nll: number[] = [];
    for (const recover of ['none', 'least-squares']) {
      const out = join(folder, recover);
      // Few tokens would fit the refit to themselves alone.
      await run(tiny, { out, recover, calibrationTokens: 1e6 });
      await using model = await Model.open(out, { device });
      const ids = model.tokenizer.encode(await readFile(texts[0] as string, 'utf8'));
      nll.push((await model.evaluate(ids, { windows: 4 })).nll);
    }
    assert.ok((nll[1] as number) < (nll[0] as number) - 0.2, nll.join(' '));
  });

  for (const [family, name] of [
    ['qwen2_moe', 'model'],
    ['mixtral', 'model'],
    ['mixtral', 'model_bf16'],
    ['mixtral', 'model_sharded'],
    ['olmoe', 'model'],
    ['qwen3_moe', 'model'],
  ] as const) {
    it(`${family} ${name}, without a tokenizer: compresses in all ways, and reloads`, async () => {
      const source = join(root, 'test/golden/families', family, name);
      const calibrate = [await shortWindows(join(folder, 'ids.safetensors'), 64)];
      const experts = (await run(source, { calibrate, groups: 1 })).layers[0]?.experts as number;
      const original = await logits(source, someIds);
      await run(source, { calibrate, groups: experts });
      assert.deepEqual(await logits(join(folder, 'new'), someIds), original);
      for (const options of [{ recover: 'none' }, {}, { weights: { format: 'int8' } as const }]) {
        const { layers, bytes } = await run(source, { calibrate, groups: 2, ...options });
        assert.ok(layers.every(({ labels, groups }) => new Set(labels).size === groups));
        assert.ok(bytes.after < bytes.before);
        const changed = await logits(join(folder, 'new'), someIds);
        assert.ok(changed.every(Number.isFinite) && changed.some((value, i) => value !== original[i]));
      }
    });
  }

  it('a stopped run goes on behind its last finished layer, to the same bytes', async () => {
    const [whole, out] = [join(folder, 'whole'), join(folder, 'resumed')];
    await run(tiny, { out: whole });
    for (const finished of [1, 3]) {
      const controller = new AbortController();
      const stop = ({ phase, done }: { phase: string; done: number }): void => {
        if (phase === 'compress' && done === finished) controller.abort();
      };
      await assert.rejects(run(tiny, { out, signal: controller.signal, onProgress: stop }));
      const phases: string[] = [];
      const resumed = { out, resume: true };
      await assert.rejects(run(tiny, { ...resumed, groups: 7 }), /resume/);
      await run(tiny, { ...resumed, onProgress: ({ phase }) => phases.push(phase) });
      assert.ok(!phases.includes('calibrate'));
      assert.deepEqual(await hashes(out), await hashes(whole));
      assert.ok(!(await readdir(folder)).includes('resumed.partial'));
      await rm(out, { recursive: true });
    }
  });

  it('rows chosen by the loss of the whole model are not chosen again', async () => {
    const [whole, out] = [join(folder, 'whole'), join(folder, 'resumed')];
    const factorize = {
      step: 'factorize',
      method: 'losparse',
      importance: 'model',
      rank: 16,
      rows: 0.1,
      steps: 16,
    } as const;
    // A step takes the gradient over a window.
    const calibrate = [await shortWindows(join(folder, 'short.safetensors'), 60)];
    const options = { calibrate, recipe: { steps: [factorize], recover: 'none' as const } };
    const phases: string[] = [];
    await run(tiny, { ...options, out: whole, onProgress: ({ phase }) => phases.push(phase) });
    assert.equal(phases.filter((phase) => phase === 'weigh the rows').length, 16);
    for (const [at, finished] of [
      ['weigh the rows', 7],
      ['compress', 2],
    ] as const) {
      const controller = new AbortController();
      const stop = ({ phase, done }: { phase: string; done: number }): void => {
        if (phase === at && done === finished) controller.abort();
      };
      await assert.rejects(run(tiny, { ...options, out, signal: controller.signal, onProgress: stop }));
      phases.length = 0;
      await run(tiny, { ...options, out, resume: true, onProgress: ({ phase }) => phases.push(phase) });
      assert.equal(phases.includes('weigh the rows'), at === 'weigh the rows');
      assert.deepEqual(await hashes(out), await hashes(whole));
      await rm(out, { recursive: true });
    }
  });

  it('an abort at any step leaves the old folder', async () => {
    const out = join(folder, 'old');
    await run(tiny, { out, recover: 'none' });
    const [before, beside] = [await hashes(out), await readdir(folder)];
    for (const phase of ['calibrate', 'copy what stays', 'compress']) {
      const controller = new AbortController();
      const reason = new Error(phase);
      const stop = (progress: { phase: string; done: number }): void => {
        if (progress.phase === phase && progress.done > 0) controller.abort(reason);
      };
      await assert.rejects(run(tiny, { out, signal: controller.signal, onProgress: stop }), reason);
      assert.deepEqual(await hashes(out), before);
      const left = phase === 'compress' ? ['old.partial'] : [];
      assert.deepEqual((await readdir(folder)).sort(), [...beside, ...left].sort());
    }
  });

  it('refuses recipes and calibration that cannot work', async () => {
    const ids = await shortWindows(join(folder, 'large.safetensors'), 4096);
    const cases: [Partial<CompressOptions>, RegExp][] = [
      [{ groups: 17 }, /1 … 16/],
      [{ groups: Number.NaN }, /groups/],
      [{ recover: 'prayer' }, /recover/],
      [{ recipe: 'stir' }, /recipe/],
      [{ calibrate: [] }, /calibrate/],
      [{ calibrate: [ids] }, /ids 0 … 2047/],
      [{ out: tiny }, /another folder/],
    ];
    for (const [options, words] of cases) {
      await assert.rejects(run(tiny, options), (error: unknown) => {
        assert.ok(error instanceof MoeError && error.code === 'RECIPE_INVALID', String(error));
        assert.match(error.message, words);
        return true;
      });
    }
    await run(tiny, { out: join(folder, 'once'), recover: 'none' });
    await assert.rejects(run(join(folder, 'once'), {}), /uncompressed/);
  });

  it('writes shards with an index that a checkpoint reads', async () => {
    await using source = await Checkpoint.open(tiny);
    await using output = await OutputFolder.create(join(folder, 'shards'));
    const names = [...source.tensors.keys()];
    const writer = new ModelWriter(output, source, names, 0, { shardBytes: 2e6 });
    await writer.copyKept(() => {});
    const bytes = await writer.finish(source.config);
    await output.commit();
    assert.equal((await readdir(join(folder, 'shards'))).filter((name) => /-of-0000\d\.safe/.test(name)).length, 4);
    await using written = await Checkpoint.open(join(folder, 'shards'));
    assert.equal(written.bytes, bytes);
    for (const name of names) assert.deepEqual(await written.read(name), await source.read(name));
  });
});
