/** What can go wrong while a model is compressed: a typed error or a documented rule, and the old folder untouched. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdtemp, readdir, readFile, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { SafetensorsWriter } from '../../lib/checkpoint/writer.ts';
import { type CompressOptions, compress } from '../../lib/compress/compress.ts';
import type { RecipeInput } from '../../lib/compress/recipe/schema.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const tiny = join(root, 'examples/models/tiny-qwen3-moe');
const sharded = join(root, 'test/golden/families/mixtral/model_sharded');
const text = join(root, 'examples/text/node.calibrate.txt');

describe('a compression that fails', () => {
  let folder = '';
  let device: Device;
  let old = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-failures-'));
    device = await openDevice('cpu', { threads: 2 });
    await cp(tiny, join(folder, 'out'), { recursive: true });
    old = await readFile(join(folder, 'out/config.json'), 'utf8');
  });
  after(async () => {
    device.dispose();
    await rm(folder, { recursive: true, force: true });
  });
  afterEach(async () => {
    assert.ok((await readFile(join(folder, 'out/config.json'), 'utf8')) === old, 'the old folder is another');
    assert.deepEqual((await readdir(join(folder, 'out'))).sort(), (await readdir(tiny)).sort());
  });

  const run = (source: string, options: Partial<CompressOptions>) =>
    compress(source, {
      out: join(folder, 'out'),
      recipe: 'merge',
      groups: 8,
      calibrate: [text],
      calibrationTokens: 512,
      device,
      force: true,
      ...options,
    });

  /** A safetensors file of one window of few tokens. */
  async function ids(name: string, tokens: readonly number[]): Promise<string> {
    const path = join(folder, name);
    const writer = await SafetensorsWriter.create(path, [{ name: 'ids', dtype: 'I32', shape: [1, tokens.length] }]);
    await writer.write('ids', Int32Array.from(tokens));
    await writer.finish();
    return path;
  }

  it('a disk that is full: FILE_UNWRITABLE', async () => {
    // No file may grow beyond 512 KB.
    const command = `ulimit -f 1024; exec "$@"`;
    const main = [process.execPath, '--import=tsx', join(root, 'lib/cli/main.ts'), 'compress', tiny];
    const settings = ['--out', join(folder, 'out'), '--force', '--groups', '8', '--calibrate', text];
    const more = ['--calibration-tokens', '512', '--recover', 'none'];
    const stderr = await new Promise<string>((resolve) => {
      execFile('sh', ['-c', command, 'sh', ...main, ...settings, ...more], { cwd: root }, (_, __, said) =>
        resolve(said),
      );
    });
    assert.match(stderr, /node-moe: FILE_UNWRITABLE /);
    assert.ok(!(await readdir(folder)).includes('out.partial'));
  });

  it('a shard that is cut short or missing', async () => {
    const broken = join(folder, 'broken');
    await cp(sharded, broken, { recursive: true });
    const shard = (await readdir(broken)).filter((name) => name.endsWith('.safetensors')).sort()[1] as string;
    const calibrate = [await ids('few.safetensors', [1, 2, 3, 4])];
    await truncate(join(broken, shard), 4096);
    await assert.rejects(run(broken, { groups: 2, calibrate }), { code: 'CHECKPOINT_MALFORMED' });
    await rm(join(broken, shard));
    await assert.rejects(run(broken, { groups: 2, calibrate }), { code: 'FILE_UNREADABLE' });
  });

  it('a weight that is no number', async () => {
    const source = join(folder, 'source');
    await cp(tiny, source, { recursive: true });
    await using checkpoint = await Checkpoint.open(tiny);
    const tensors = [...checkpoint.tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape }));
    const writer = await SafetensorsWriter.create(join(source, 'model.safetensors'), tensors);
    for (const { name } of tensors) {
      const data = await checkpoint.read(name);
      if (name.endsWith('layers.1.mlp.experts.3.up_proj.weight')) (data as Uint16Array)[5] = 0x7fff;
      await writer.write(name, data);
    }
    await writer.finish();
    for (const recover of ['none', 'least-squares']) {
      for (const recipe of ['merge', 'reap', 'slim'] as const) {
        await assert.rejects(
          run(source, { recipe, recover, neurons: 0.5 }),
          { code: 'CHECKPOINT_MALFORMED' },
          `${recipe} ${recover}`,
        );
      }
    }
  });

  it('more groups than experts, a rank beyond the matrix', async () => {
    for (const [recipe, groups, argument] of [
      ['merge', 17, 'recipe/steps/0/groups'],
      ['hc-smoe', 17, 'recipe/steps/0/groups'],
      ['neurons', 17, 'recipe/steps/0/groups'],
      ['reap', 17, 'recipe/steps/0/experts'],
      ['mc-smoe', 8, 'recipe/steps/2/rank'],
    ] as const) {
      await assert.rejects(run(tiny, { recipe, groups, rank: 129 }), { code: 'RECIPE_INVALID', argument });
    }
  });

  const unvisited: [string, Partial<CompressOptions>][] = [
    ...(['merge', 'hc-smoe', 'reap', 'mc-smoe', 'slim', 'neurons', 'best'] as const).map(
      (recipe): [string, Partial<CompressOptions>] => [recipe, { recipe, rank: 16, neurons: 0.5 }],
    ),
    ['sparsify', { recipe: { steps: [{ step: 'sparsify' }] } satisfies RecipeInput }],
  ];
  for (const [name, options] of unvisited) {
    it(`${name} with experts that no token visited: finite, and it opens`, async () => {
      const out = join(folder, 'new');
      const calibrate = [await ids('two.safetensors', [5, 9])];
      const weights = name === 'sparsify' ? {} : { weights: { format: 'int4' } as const };
      await run(tiny, { ...options, out, calibrate, calibrationTokens: undefined, ...weights });
      await using model = await Model.open(out, { device });
      const { data } = await model.logits([1, 2, 3, 4, 5, 6, 7, 8]);
      assert.ok(data.every(Number.isFinite));
    });
  }
});
