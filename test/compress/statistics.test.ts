import assert from 'node:assert/strict';
import { copyFile, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CompressOptions, type CompressResult, compress } from '../../lib/compress/compress.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const tiny = join(root, 'examples/models/tiny-qwen3-moe');
const text = join(root, 'examples/text/node.calibrate.txt');

describe('a statistics file', () => {
  let folder = '';
  let device: Device;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-statistics-'));
    device = await openDevice('cpu', { threads: 2 });
  });
  after(async () => {
    device.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  const run = (options: Partial<CompressOptions>, source = tiny): Promise<CompressResult & { phases: Set<string> }> => {
    const phases = new Set<string>();
    return compress(source, {
      out: join(folder, 'new'),
      recipe: 'merge',
      groups: 8,
      calibrate: [text],
      calibrationTokens: 512,
      recover: 'none',
      device,
      force: true,
      statistics: join(folder, 'statistics.safetensors'),
      onProgress: ({ phase }) => phases.add(phase),
      ...options,
    }).then((result) => ({ ...result, phases }));
  };

  it('is written once, and read by every recipe; what comes of it is the same', async () => {
    const path = join(folder, 'statistics.safetensors');
    const without = await run({ statistics: undefined });
    const first = await run({});
    assert.ok(first.phases.has('calibrate'));
    const { mtimeMs } = await stat(path);
    const second = await run({});
    assert.ok(!second.phases.has('calibrate'));
    assert.deepEqual([first.layers, second.layers], [without.layers, without.layers]);
    const pruned = await run({ recipe: 'reap' });
    assert.ok(!pruned.phases.has('calibrate'));
    assert.deepEqual(pruned.layers, (await run({ recipe: 'reap', statistics: undefined })).layers);
    assert.equal((await stat(path)).mtimeMs, mtimeMs);
  });

  it('of another model or of other windows, or no such file at all, is refused', async () => {
    await run({});
    const refused = { code: 'RECIPE_INVALID', argument: join(folder, 'statistics.safetensors') };
    await assert.rejects(run({ seed: 7 }), refused);
    await assert.rejects(run({ calibrationTokens: 256 }), refused);
    const other = join(folder, 'other.safetensors');
    await copyFile(join(root, 'examples/models/tiny-qwen3-moe/model.safetensors'), other);
    await assert.rejects(run({ statistics: other }), { code: 'RECIPE_INVALID', argument: other });
    const cut = join(folder, 'cut.safetensors');
    const whole = await readFile(join(folder, 'statistics.safetensors'));
    await writeFile(cut, whole.subarray(0, whole.length - 8));
    await assert.rejects(run({ statistics: cut }), { code: 'CHECKPOINT_MALFORMED' });
    await assert.rejects(run({ statistics: join(folder, 'none/statistics') }), { code: 'FILE_UNWRITABLE' });
  });
});
