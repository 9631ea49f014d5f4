import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CompressOptions, type CompressResult, compress } from '../../lib/compress/compress.ts';
import { recipeNames } from '../../lib/compress/recipe/presets.ts';
import { defaultMultiple } from '../../lib/compress/slim/widths.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { parseWeightFormat } from '../../lib/weight/format.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const tiny = join(root, 'examples/models/tiny-qwen3-moe');
const text = join(root, 'examples/text/node.calibrate.txt');
/** Of the shipped model's experts in 16 bits. */
const originalBytes = 4 * 16 * 3 * 128 * 128 * 2;

describe('compress to a target ratio', () => {
  let folder = '';
  let device: Device;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-ratio-'));
    device = await openDevice('cpu', { threads: 2 });
  });
  after(async () => {
    device.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  const run = (options: Partial<CompressOptions>): Promise<CompressResult> =>
    compress(tiny, {
      out: join(folder, 'new'),
      calibrate: [text],
      calibrationTokens: 512,
      recover: 'none',
      device,
      force: true,
      ...options,
    });
  const ratioOf = ({ layers }: CompressResult): number =>
    layers.reduce((sum, { bytes }) => sum + bytes, 0) / originalBytes;

  // The coarsest step of each preset: one expert of a layer, or of all; a rank; a block of neurons.
  const cases: [recipe: string, weights: string | undefined, ratio: number, step: number][] = [
    ['merge', 'bf16', 0.3, 2 / 64],
    ['merge', 'int4', 0.1, 2 / 64],
    ['reap', 'bf16', 0.3, 1 / 16],
    ['hc-smoe', 'bf16', 0.3, 1 / 16],
    ['mc-smoe', 'bf16', 0.2, 0.01],
    ['slim', 'bf16', 0.25, 0.002],
    ['slim', 'int4:128:symmetric', 0.1, 0.002],
    ['neurons', 'bf16', 0.25, 0.002],
    ['best', 'f16', 0.25, 0.002],
    ['best', 'int4:128:symmetric', 0.14, 0.002],
  ];
  for (const [recipe, weights, ratio, step] of cases) {
    it(`${recipe} ${weights} at ${ratio}: at most that, and no more than a step below`, async () => {
      const format = weights === undefined ? {} : { weights: parseWeightFormat(weights) };
      const got = ratioOf(await run({ recipe, targetRatio: ratio, ...format }));
      assert.ok(got <= ratio && got > ratio - step, `${got}`);
    });
  }

  it('best without a format: int8, int4, then fewer neurons in lean int4', async () => {
    for (const [ratio, steps] of [
      [0.6, [['quantize', 'int8']]],
      [0.4, [['quantize', 'int4']]],
      [
        0.1,
        [
          ['slim', undefined],
          ['quantize', 'int4:128:symmetric'],
        ],
      ],
    ] as const) {
      const result = await run({ recipe: 'best', targetRatio: ratio });
      const got = result.recipe.steps.map((step) => [step.step, step.step === 'quantize' ? step.weights : undefined]);
      assert.deepEqual(got, steps);
      assert.ok(ratioOf(result) <= ratio);
    }
  });

  it('a ratio out of reach names the least, which can be had', async () => {
    for (const recipe of recipeNames) {
      const weights = parseWeightFormat('bf16');
      const error = await run({ recipe, targetRatio: 1e-6, weights }).then(
        () => assert.fail(recipe),
        (cause) => cause,
      );
      assert.equal(error.code, 'RECIPE_INVALID', recipe);
      assert.equal(error.argument, 'targetRatio');
      if (recipe !== 'merge' && recipe !== 'reap') continue;
      const least = Number(/at least ([\d.]+)/.exec(error.expected)?.[1]);
      assert.ok(ratioOf(await run({ recipe, targetRatio: least, weights })) <= least);
      await assert.rejects(run({ recipe, targetRatio: 0.99 * least, weights }), { code: 'RECIPE_INVALID' });
    }
    assert.deepEqual(
      (await readdir(folder)).filter((name) => name.endsWith('.partial')),
      [],
    );
  });

  it('refuses a ratio outside 0 … 1, beside what it chooses, and of a recipe with steps of its own', async () => {
    for (const targetRatio of [0, 1, -1, Number.NaN, '0.5' as never]) {
      await assert.rejects(run({ recipe: 'slim', targetRatio }), { code: 'RECIPE_INVALID', argument: 'targetRatio' });
    }
    await assert.rejects(run({ recipe: 'merge', groups: 8, targetRatio: 0.5 }), { argument: 'groups' });
    const own = { steps: [{ step: 'slim' as const, keep: 0.5 }] };
    await assert.rejects(run({ recipe: own, targetRatio: 0.5 }), { argument: 'targetRatio' });
  });

  it('widths are multiples of a power of two that fits the expert', () => {
    assert.deepEqual([8, 64, 128, 768, 1024, 14336].map(defaultMultiple), [1, 1, 2, 8, 16, 16]);
  });
});
