import assert from 'node:assert/strict';
import { cp, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { SafetensorsWriter } from '../../lib/checkpoint/writer.ts';
import { compress } from '../../lib/compress/compress.ts';
import { narrow } from '../../lib/compress/encode.ts';
import { powersOfTwo, withInputScales } from '../../lib/compress/input-scales.ts';
import { LayerContext } from '../../lib/compress/layer-context.ts';
import { parseRecipe } from '../../lib/compress/recipe/schema.ts';
import { moeLayers, openSource } from '../../lib/compress/source.ts';
import { LayerStream } from '../../lib/compress/statistics/layer-stream.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const ids = Array.from({ length: 3 }, (_, w) => Int32Array.from({ length: 80 }, (__, i) => (i * (w + 3) + w) % 64));

/** The model in `from` with each eighth input of its blocks 16 times as large, and what reads it as much smaller. */
async function writeUneven(from: string, to: string): Promise<void> {
  await cp(from, to, { recursive: true });
  await using model = await Checkpoint.open(from);
  const source = openSource(model);
  const layers = moeLayers(source);
  const norms = new Set(layers.map(({ norm }) => `${norm}.weight`));
  const readers = new Set(
    layers.flatMap(({ names, spec }) => {
      const experts = Array.from({ length: spec.router.experts }, (_, expert) => names.expert(expert));
      const mlps = [...experts, ...(names.shared ? [names.shared] : [])];
      return [names.router, names.sharedGate, ...mlps.flatMap(({ gate, up }) => [gate, up])].map(
        (name) => `${name}.weight`,
      );
    }),
  );
  const entries = [...model.tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const writer = await SafetensorsWriter.create(join(to, 'uneven.safetensors'), entries);
  for (const { name, dtype } of entries) {
    const factor = norms.has(name) ? 16 : readers.has(name) ? 1 / 16 : 1;
    if (factor === 1) await writer.write(name, await model.read(name));
    else {
      const { hidden } = source.config;
      const values = (await model.readF32(name)).map((value, at) => ((at % hidden) % 8 === 0 ? factor * value : value));
      await writer.write(name, narrow(values, dtype));
    }
  }
  await writer.finish();
  await rename(join(to, 'uneven.safetensors'), join(to, 'model.safetensors'));
}

/** One with experts alone, and one with a shared expert and its gate. */
for (const folder of ['examples/models/tiny-qwen3-moe', 'test/golden/families/qwen2_moe/model']) {
  describe(`scales of a layer's inputs: ${folder}`, () => {
    let device: Device;
    let temporary: string;
    /** A model that gives what the one in `folder` does, but whose inputs of experts are far from equally large. */
    let source: string;
    let checkpoint: Checkpoint;

    before(async () => {
      device = await openDevice('cpu');
      temporary = await mkdtemp(join(tmpdir(), 'node-moe-scales-'));
      source = join(temporary, 'source');
      await writeUneven(join(root, folder), source);
      checkpoint = await Checkpoint.open(source);
    });
    after(async () => {
      checkpoint.close();
      device.dispose();
      await rm(temporary, { recursive: true, force: true });
    });

    it('change nothing before gate and up are rounded', async () => {
      const { family } = openSource(checkpoint);
      const stream = new LayerStream(device, checkpoint, family, ids);
      try {
        await stream.embed();
        const [own] = moeLayers(openSource(checkpoint));
        assert.ok(own);
        await stream.enter(own.index);
        const { index, spec, names } = own;
        const context = new LayerContext(index, spec, names, stream, checkpoint, { recover: 'none', refit: [] });
        const layer = context.originals({ format: 'f32' });
        const scales = Float32Array.from({ length: spec.hidden }, (_, at) => 2 ** ((at % 7) - 3));
        const scaled = withInputScales(layer, scales);
        assert.ok(scaled);
        assert.equal((await context.blockError(scaled)).error, (await context.blockError(layer)).error);
        assert.ok((await context.blockError({ ...scaled, inputScales: scales.map((s) => 2 * s) })).error > 0);
        assert.equal(withInputScales(scaled, scales), undefined);
      } finally {
        stream.dispose();
      }
    });

    it('go into the norm and all that reads it, and rounding costs less', async () => {
      const [plain, scaled] = [join(temporary, 'plain'), join(temporary, 'scaled')];
      const windows = join(temporary, 'windows.safetensors');
      const calibration = { name: 'calibration', dtype: 'I32', shape: [ids.length, 80] } as const;
      const writer = await SafetensorsWriter.create(windows, [calibration]);
      await writer.write('calibration', Int32Array.from(ids.flatMap((window) => [...window])));
      await writer.finish();
      const errorWith = async (out: string, scales: ('gate-up' | 'down')[]): Promise<number> => {
        const steps = [{ step: 'quantize', weights: 'int4:32:symmetric', method: 'awq', scales } as const];
        const recipe = { steps, recover: 'none' } as const;
        const { layers } = await compress(source, { calibrate: [windows], device, out, recipe });
        return (layers[0] as (typeof layers)[number]).error;
      };
      const errors = { plain: await errorWith(plain, []), scaled: await errorWith(scaled, ['gate-up']) };
      assert.ok(errors.scaled < 0.7 * errors.plain, `${errors.scaled} and ${errors.plain}`);
      await using made = await Checkpoint.open(scaled);
      const [own] = moeLayers(openSource(checkpoint));
      assert.ok(own);
      const read = async (from: Checkpoint, name: string): Promise<Float32Array> => from.readF32(`${name}.weight`);
      const [before, after] = [await read(checkpoint, own.norm), await read(made, own.norm)];
      const scales = before.map((value, at) => value / (after[at] as number));
      assert.deepEqual(scales, powersOfTwo(scales));
      assert.ok(scales.some((scale) => scale !== 1));
      const { shared, sharedGate, router } = own.names;
      const { sharedWidth } = own.spec;
      const readers = [router, ...(sharedWidth > 0 ? [shared?.gate, shared?.up, sharedGate] : [])];
      for (const name of readers) {
        if (name === undefined) continue;
        const original = await read(checkpoint, name);
        const expected = original.map((value, at) => value * (scales[at % scales.length] as number));
        assert.deepEqual(await read(made, name), expected, name);
      }
      await using original = await Model.open(source, { device });
      await using model = await Model.open(scaled, { device });
      const [theirs] = (await original.trace(ids[0] as Int32Array)).layers;
      const [ours] = (await model.trace(ids[0] as Int32Array)).layers;
      assert.deepEqual(ours?.routerLogits, theirs?.routerLogits);
      assert.deepEqual(ours?.ids, theirs?.ids);
    }).timeout(60_000);
  });
}

describe('scales of inputs in a recipe', () => {
  it('come in the last step', async () => {
    const steps = [{ step: 'quantize', weights: 'int4', method: 'awq' }, { step: 'sparsify' }];
    await assert.rejects(
      compress(join(root, 'examples/models/tiny-qwen3-moe'), {
        out: join(tmpdir(), 'node-moe-never'),
        recipe: parseRecipe({ steps }),
        calibrate: [join(root, 'examples/text/node.calibrate.txt')],
      }),
      { code: 'RECIPE_INVALID', argument: 'recipe/steps/0/scales' },
    );
  });
});
