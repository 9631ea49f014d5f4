/** A compression that is killed in the middle, and goes on. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { shortWindows } from './short-windows.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const model = join(root, 'examples/models/tiny-qwen3-moe');
const text = join(root, 'examples/text/node.calibrate.txt');

describe('a killed compression', () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-kill-'));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  /** Runs the command; `watch` is called every few milliseconds and kills the process, not politely, by returning true. */
  function compress(
    out: string,
    options: readonly string[],
    watch: () => boolean = () => false,
  ): Promise<number | null> {
    const command = ['--import=tsx', join(root, 'lib/cli/main.ts'), 'compress', model, '--out', out];
    const child = spawn(process.execPath, [...command, ...options], { stdio: 'ignore' });
    const timer = setInterval(() => {
      if (watch()) child.kill('SIGKILL');
    }, 2);
    return new Promise((done) => {
      child.on('close', (code) => {
        clearInterval(timer);
        done(code);
      });
    });
  }

  async function hashes(path: string): Promise<string[]> {
    const names = (await readdir(path)).sort();
    return Promise.all(
      names.map(async (name) => {
        const hash = createHash('sha256').update(await readFile(join(path, name)));
        return `${name} ${hash.digest('hex')}`;
      }),
    );
  }

  const merge = ['--calibrate', text, '--calibration-tokens', '1024', '--recipe', 'merge', '--groups', '8'];

  it('goes on with --resume, to the same bytes, wherever it was killed', async () => {
    const whole = join(folder, 'whole');
    assert.equal(await compress(whole, merge), 0);
    const expected = await hashes(whole);
    const out = join(folder, 'killed');
    const partial = (name: string): string => join(folder, 'killed.partial', name);
    const places: (() => boolean)[] = [
      () => existsSync(partial('model-00001-of-00005.safetensors.partial')),
      () => existsSync(partial('progress.json')),
      () => existsSync(partial('model-00002-of-00005.safetensors')),
      () => existsSync(partial('model-00004-of-00005.safetensors.partial')),
      () => existsSync(partial('config.json')),
    ];
    for (const [index, place] of places.entries()) {
      await compress(out, [...merge, '--resume'], place);
      if (existsSync(out)) continue; // it was too quick to be killed there
      assert.equal(await compress(out, [...merge, '--resume']), 0, `place ${index}`);
      assert.deepEqual(await hashes(out), expected, `place ${index}`);
      assert.deepEqual((await readdir(folder)).sort(), ['killed', 'whole']);
      await rm(out, { recursive: true });
    }
  });

  it('leaves nothing of a plan that was killed over the layers of the whole model', async () => {
    const recipe = join(folder, 'recipe.json');
    const factorize = { step: 'factorize', method: 'losparse', importance: 'model', rank: 8, rows: 0.1, steps: 16 };
    await writeFile(recipe, JSON.stringify({ steps: [factorize], recover: 'none' }));
    const [whole, out] = [join(folder, 'planned'), join(folder, 'unplanned')];
    const options = ['--calibrate', await shortWindows(join(folder, 'ids.safetensors'), 60), '--recipe', recipe];
    assert.equal(await compress(whole, options), 0);
    const planning = join(folder, 'unplanned.partial', 'layer-2.partial');
    assert.notEqual(await compress(out, [...options, '--resume'], () => existsSync(planning)), 0);
    assert.ok(existsSync(planning));
    assert.equal(await compress(out, [...options, '--resume']), 0);
    assert.deepEqual(await hashes(out), await hashes(whole));
  });
});
