import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type SweepOptions, sweep } from '../../lib/compress/sweep.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const tiny = join(root, 'examples/models/tiny-qwen3-moe');

describe('sweep', () => {
  let folder = '';
  let device: Device;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-sweep-'));
    device = await openDevice('cpu', { threads: 2 });
  });
  after(async () => {
    device.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  const run = (options: Partial<SweepOptions>) =>
    sweep(tiny, {
      out: join(folder, 'sweep'),
      recipe: 'reap',
      ratios: [0.25, 0.5],
      recover: 'none',
      calibrate: [join(root, 'examples/text/node.calibrate.txt')],
      calibrationTokens: 512,
      text: join(root, 'examples/text/node.evaluate.txt'),
      windows: 2,
      device,
      ...options,
    });

  it('stopped and resumed it gives what a whole one gives', async () => {
    const out = join(folder, 'sweep');
    const controller = new AbortController();
    let layers = 0;
    const onProgress = ({ phase, done }: { phase: string; done: number }): void => {
      if (phase === 'compress' && done === 2 && ++layers === 2) controller.abort(new Error('enough'));
    };
    await assert.rejects(run({ onProgress, signal: controller.signal }), /enough/);
    assert.deepEqual((await readdir(out)).sort(), [
      'ratio-0.25.partial',
      'ratio-0.5',
      'statistics.safetensors',
      'sweep.json',
    ]);
    await assert.rejects(run({}), { code: 'FILE_EXISTS' });
    await assert.rejects(run({ resume: true, recipe: 'merge' }), { code: 'RECIPE_INVALID', argument: 'resume' });
    const phases = new Set<string>();
    const rows = await run({ resume: true, onProgress: ({ phase }) => phases.add(phase) });
    assert.ok(!phases.has('calibrate'));
    assert.deepEqual((await readdir(out)).sort(), [
      'frontier.svg',
      'ratio-0.25',
      'ratio-0.5',
      'statistics.safetensors',
      'sweep.json',
    ]);
    assert.deepEqual(
      rows.map(({ target, ratio }) => [target, ratio]),
      [
        [undefined, 1],
        [0.5, 0.5],
        [0.25, 0.25],
      ],
    );
    assert.ok(rows.every(({ nll }, at) => at === 0 || nll > (rows[at - 1]?.nll as number)));
    const svg = await readFile(join(out, 'frontier.svg'), 'utf8');
    assert.ok(svg.startsWith('<svg xmlns=') && svg.includes('>0.25<'));
    const whole = await run({ out: join(folder, 'whole') });
    assert.deepEqual(
      whole.map(({ nll, bytes }) => [nll, bytes]),
      rows.map(({ nll, bytes }) => [nll, bytes]),
    );
  });

  it('refuses ratios that are none, a text that is not there, and a folder that is no sweep', async () => {
    const out = join(folder, 'new');
    for (const ratios of [[], [1], [0.5, 0], 'half' as never]) {
      await assert.rejects(run({ out, ratios }), { code: 'RECIPE_INVALID', argument: 'ratios' });
    }
    await assert.rejects(run({ out, text: join(folder, 'none.txt') }), { code: 'FILE_UNREADABLE' });
    await writeFile(join(folder, 'file'), '');
    await assert.rejects(run({ out: join(folder, 'file'), force: true }), { code: 'FILE_EXISTS' });
  });
});
