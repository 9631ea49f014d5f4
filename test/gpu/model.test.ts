/** Whole models on the device that is tested: from a folder by name, and folders that `compress` wrote. */
import { strict as assert } from 'node:assert';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compress, Model } from '../../lib/index.ts';
import { root } from '../checkpoint/support.ts';
import { relativeError } from '../golden/case.ts';
import { goldenFolder, tinyModel } from '../model/support.ts';
import { onlyDevice } from '../only-device.ts';

const device = onlyDevice ?? 'simt';
const ids = Int32Array.from({ length: 24 }, (_, i) => (i * 37 + 11) % 60);

async function logitsOf(folder: string, on: string): Promise<Float32Array> {
  await using model = await Model.open(folder, { device: on });
  return (await model.logits(ids)).data;
}

describe(`models on ${device}`, () => {
  for (const family of ['mixtral', 'qwen2_moe', 'qwen3_moe', 'olmoe']) {
    it(`${family}: Model.open by the device's name gives the reference's logits`, async () => {
      const folder = goldenFolder(family);
      assert.ok(relativeError(await logitsOf(folder, device), await logitsOf(folder, 'reference')) <= 1e-4);
    });
  }

  it('a folder that compress wrote, with int4 experts and merged groups', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'node-moe-'));
    try {
      const out = join(folder, 'merged');
      await compress(tinyModel, {
        out,
        groups: 8,
        weights: { format: 'int4' },
        calibrate: [join(root, 'examples/text/node.calibrate.txt')],
        calibrationTokens: 1024,
        device: 'cpu',
      });
      assert.ok(relativeError(await logitsOf(out, device), await logitsOf(out, 'reference')) <= 1e-3);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it('generates the tokens that cpu generates', async () => {
    const greedy = async (on: string): Promise<number[]> => {
      await using model = await Model.open(tinyModel, { device: on });
      const tokens: number[] = [];
      for await (const { id } of model.generate('interface ', { maxTokens: 8 })) tokens.push(id);
      return tokens;
    };
    assert.deepEqual(await greedy(device), await greedy('cpu'));
  });
});
