import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeMoe, text, tiny } from './run.ts';

describe('compress by recipes and ratios', () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-cli-'));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  const compress = (out: string, ...more: string[]) =>
    nodeMoe([
      ...['compress', tiny, '--out', join(folder, out), '--calibrate', text('node.calibrate'), '--recover', 'none'],
      ...['--calibration-tokens', '512', ...more],
    ]);

  it('an error points into the recipe file', async () => {
    const file = join(folder, 'recipe.json');
    for (const [step, path] of [
      [{ step: 'group', groups: 0 }, 'steps/0/groups'],
      [{ step: 'group', groups: 17 }, 'steps/0/groups'],
      [{ step: 'slim' }, 'steps/0/keep'],
    ] as const) {
      await writeFile(file, JSON.stringify({ steps: [step] }));
      const { code, stderr } = await compress('new', '--recipe', file);
      assert.equal(code, 1);
      assert.ok(stderr.startsWith(`node-moe: RECIPE_INVALID ${file}/${path}: `), stderr);
    }
    assert.deepEqual(await readdir(folder), ['recipe.json']);
  });

  it('--target-ratio, --statistics and --format', async () => {
    const shared = ['--statistics', join(folder, 'statistics.safetensors')];
    const pruned = await compress(
      'pruned',
      '--recipe',
      'reap',
      '--target-ratio',
      '0.5',
      '--weights',
      'bf16',
      ...shared,
      '--format',
      'huggingface',
      '--json',
    );
    assert.equal(pruned.code, 0, pruned.stderr);
    assert.deepEqual(
      JSON.parse(pruned.stdout).layers.map(({ groups }: { groups: number }) => groups),
      [8, 8, 8, 8],
    );
    const config = JSON.parse(await readFile(join(folder, 'pruned/config.json'), 'utf8'));
    assert.equal(config.moe, undefined);
    const least = await compress('new', '--recipe', 'merge', '--target-ratio', '0.01', ...shared);
    assert.match(least.stderr, /RECIPE_INVALID targetRatio: expected at least 0\.0625 /);
  });

  it('--sweep prints a row a model, and needs a text', async () => {
    const none = await compress('sweep', '--recipe', 'reap', '--sweep');
    assert.match(none.stderr, /INVALID_ARGUMENT --text/);
    const args = ['--recipe', 'reap', '--sweep', '0.5,0.25', '--text', text('node.evaluate')];
    const { code, stdout, stderr } = await compress('sweep', ...args);
    assert.equal(code, 0, stderr);
    assert.deepEqual(
      stdout
        .trim()
        .split('\n')
        .slice(2, 4)
        .map((line) => line.split(/ {2,}/)[1]),
      ['0.5', '0.25'],
    );
    assert.ok(stdout.trim().endsWith('frontier.svg'));
  });
});
