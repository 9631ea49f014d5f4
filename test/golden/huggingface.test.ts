/** Plain folders as transformers reads them. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SafetensorsFile } from '../../lib/checkpoint/safetensors-file.ts';
import { compress } from '../../lib/compress/compress.ts';
import type { RecipeInput } from '../../lib/compress/recipe/schema.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';

const golden = fileURLToPath(new URL('./', import.meta.url));
const ids = join(golden, 'huggingface/ids.safetensors');

const recipes: Record<string, RecipeInput['steps']> = {
  prune: [{ step: 'prune', method: 'frequency', experts: 3 }],
  merge: [{ step: 'group', groups: 3, budget: 'layer', router: 'mean' }, { step: 'merge' }],
};

describe('a plain folder gives in transformers what it gives here', () => {
  let folder = '';
  let device: Device;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-transformers-'));
    device = await openDevice('cpu');
  });
  after(async () => {
    device.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  for (const family of ['mixtral', 'olmoe', 'qwen2_moe', 'qwen3_moe']) {
    for (const [name, steps] of Object.entries(recipes)) {
      it(`${family}, ${name}`, async () => {
        await compress(join(golden, 'families', family, 'model'), {
          out: join(folder, 'plain'),
          recipe: { steps, recover: 'none' },
          calibrate: [ids],
          device,
          force: true,
          format: 'huggingface',
        });
        using windows = await SafetensorsFile.open(ids);
        using expected = await SafetensorsFile.open(join(golden, 'huggingface/expected.safetensors'));
        const prompt = [...((await windows.read('calibration')) as Int32Array).subarray(0, 24)];
        const want = (await expected.read(`${family}.${name}`)) as Float32Array;
        await using model = await Model.open(join(folder, 'plain'), { device });
        const { data: got } = await model.logits(prompt);
        assert.equal(got.length, want.length);
        const largest = Math.max(...want.map(Math.abs));
        got.forEach((value, at) => {
          assert.ok(Math.abs(value - (want[at] as number)) <= 1e-5 * largest, `${at}: ${value} for ${want[at]}`);
        });
      });
    }
  }
});
