import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CompressOptions, compress } from '../../lib/compress/compress.ts';
import { exportHuggingFace } from '../../lib/compress/huggingface.ts';
import type { RecipeInput } from '../../lib/compress/recipe/schema.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const tiny = join(root, 'examples/models/tiny-qwen3-moe');
const text = join(root, 'examples/text/node.calibrate.txt');

describe("compress with format 'huggingface'", () => {
  let folder = '';
  let device: Device;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-plain-'));
    device = await openDevice('cpu', { threads: 2 });
  });
  after(async () => {
    device.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  const run = (recipe: RecipeInput['steps'], options: Partial<CompressOptions>) =>
    compress(tiny, {
      out: join(folder, 'plain'),
      recipe: { steps: recipe, recover: 'none' },
      calibrate: [text],
      calibrationTokens: 512,
      device,
      force: true,
      ...options,
    });
  const ids = Array.from({ length: 24 }, (_, i) => (i * 7 + 3) % 60);
  const logits = async (path: string): Promise<Float32Array> => {
    await using model = await Model.open(path, { device });
    return (await model.logits(ids)).data;
  };

  const group = { step: 'group', groups: 6 } as const;
  const cases: [name: string, steps: RecipeInput['steps'], experts: number, width: number][] = [
    ['pruned experts, renumbered', [{ step: 'prune', experts: 6 }], 6, 128],
    ['fewer experts than choices', [{ step: 'prune', experts: 1 }], 1, 128],
    ['merged experts, written out', [group, { step: 'merge', align: 'none' }], 16, 128],
    [
      'merged experts with a router of groups',
      [
        { ...group, budget: 'layer', router: 'mean' },
        { step: 'merge', align: 'none' },
      ],
      6,
      128,
    ],
    ['slimmed to one width', [{ step: 'slim', keep: 0.5, widths: 'equal' }], 16, 64],
  ];
  for (const [name, steps, experts, width] of cases) {
    // Choices that share a slot are run once while they are one: that sum rounds otherwise.
    const tolerance = name.endsWith('written out') ? 1e-4 : 0;
    it(`${name}: the same logits`, async () => {
      const [compressed, plain] = [join(folder, 'compressed'), join(folder, 'plain')];
      await run(steps, { out: compressed });
      const result = await run(steps, { format: 'huggingface' });
      const config = JSON.parse(await readFile(join(plain, 'config.json'), 'utf8'));
      assert.equal(config.moe, undefined);
      const { num_experts: count = config.num_local_experts, moe_intermediate_size: own } = config;
      assert.deepEqual([count, own], [experts, width]);
      assert.ok(config.num_experts_per_tok <= experts);
      const expected = await logits(compressed);
      const far = (await logits(plain)).reduce(
        (most, value, at) => Math.max(most, Math.abs(value - (expected[at] as number))),
        0,
      );
      assert.ok(far <= tolerance, `${far}`);
      assert.ok(result.parameters.after <= result.parameters.before);
      assert.deepEqual((await readdir(folder)).sort(), ['compressed', 'plain']);
    });
  }

  it('what a plain folder cannot say is refused, and why, before any work', async () => {
    const merge = { step: 'merge', method: 'neurons' } as const;
    for (const [steps, why] of [
      [[{ step: 'slim', keep: 0.5 }], /one width/],
      [[group, merge], /one width/],
      [[{ step: 'quantize', weights: 'int4' }], /float matrices/],
      [[{ step: 'factorize', rank: 8 }], /dense matrices/],
      [[{ step: 'sparsify' }], /dense matrices/],
      [[{ ...group, router: 'cores' }, { step: 'merge' }], /in every layer/],
    ] as [RecipeInput['steps'], RegExp][]) {
      let worked = false;
      const onProgress = (): void => {
        worked = true;
      };
      const run1 = run(steps, { format: 'huggingface', out: join(folder, 'refused'), onProgress });
      await assert.rejects(run1, { code: 'RECIPE_INVALID', argument: 'format', message: why });
      assert.equal(worked, false);
    }
    await assert.rejects(run([group], { format: 'pickle' as never }), { code: 'INVALID_ARGUMENT' });
  });

  it('a folder that turns out otherwise is refused too, and the old one stays', async () => {
    const [compressed, plain] = [join(folder, 'compressed'), join(folder, 'plain')];
    await run([{ step: 'prune', experts: 6 }], { format: 'huggingface' });
    const before = await readFile(join(plain, 'config.json'), 'utf8');
    await run([{ step: 'factorize', method: 'svd', rank: 8 }], { out: compressed });
    const refused = { code: 'RECIPE_INVALID', argument: 'format' };
    await assert.rejects(exportHuggingFace(compressed, plain, { force: true }), refused);
    assert.equal(await readFile(join(plain, 'config.json'), 'utf8'), before);
    await assert.rejects(exportHuggingFace(compressed, plain), { code: 'RECIPE_INVALID' });
  });
});
