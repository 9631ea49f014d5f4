import assert from 'node:assert/strict';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { ridgeSolve } from '../../lib/compress/recover/ridge.ts';
import { calibrate } from '../../lib/compress/statistics/calibrate.ts';
import { LayerStream } from '../../lib/compress/statistics/layer-stream.ts';
import { openDevice } from '../../lib/device/open.ts';
import { familyOf } from '../../lib/model/family.ts';
import { Model } from '../../lib/model/model.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));

describe('layer stream', () => {
  for (const folder of ['examples/models/tiny-qwen3-moe', 'test/golden/families/qwen2_moe/model']) {
    it(`of ${folder} sees the router logits that the whole model computes`, async () => {
      const path = join(root, folder);
      const device = await openDevice('cpu');
      await using checkpoint = await Checkpoint.open(path);
      const family = familyOf(checkpoint.config);
      // Windows of different lengths, in more than one batch.
      const lengths = [100, 37, 1, 90, 100, 100, 100, 100];
      const windows = lengths.map((length, w) => Int32Array.from({ length }, (_, i) => (i * (w + 3) + w) % 64));
      const stream = new LayerStream(device, checkpoint, family, windows);
      const statistics = await calibrate(stream, () => {});

      await using model = await Model.open(path, { device });
      const seen = new Map<number, number[]>();
      const tap: Parameters<Model['observe']>[1] = (graph, { layer, routerLogits }) => {
        graph.output(`logits.${layer}`, routerLogits);
      };
      await model.observe(windows, tap, {
        onOutputs: async (outputs) => {
          for (const [name, tensor] of Object.entries(outputs)) {
            const layer = Number(name.split('.')[1]);
            if (!name.startsWith('logits.')) continue;
            seen.set(layer, [...(seen.get(layer) ?? []), ...((await tensor.read()) as Float32Array)]);
          }
        },
      });
      assert.deepEqual(
        statistics.map(({ layer }) => layer),
        [...seen.keys()],
      );
      for (const { layer, experts, gram, counts } of statistics) {
        const logits = seen.get(layer) as number[];
        const tokens = logits.length / experts;
        assert.equal(
          tokens,
          lengths.reduce((sum, length) => sum + length),
        );
        for (let a = 0; a < experts; a++) {
          let square = 0;
          for (let t = 0; t < tokens; t++) square += (logits[t * experts + a] as number) ** 2;
          assert.ok(
            Math.abs((gram[a * experts + a] as number) / square - 1) < 1e-5,
            `layer ${layer}, expert ${a}: ${gram[a * experts + a]} for ${square}`,
          );
        }
        const { block } = model.config.layers[layer] as (typeof model.config.layers)[number];
        const topK = block.kind === 'moe' ? block.moe.router.topK : 0;
        assert.equal(
          counts.reduce((sum, count) => sum + count, 0),
          tokens * topK,
        );
      }
      device.dispose();
    });
  }

  it('observes some of the tokens, packed, as it does all of them', async () => {
    const device = await openDevice('cpu');
    await using checkpoint = await Checkpoint.open(join(root, 'examples/models/tiny-qwen3-moe'));
    const lengths = [300, 150, 200, 256, 90];
    const windows = lengths.map((length, w) => Int32Array.from({ length }, (_, i) => (i * (w + 3) + w) % 64));
    const stream = new LayerStream(device, checkpoint, familyOf(checkpoint.config), windows);
    await stream.embed({ withOriginal: true });
    await stream.enter(0);
    const { hidden } = stream.config;
    const added = stream.zeros().map((values) => values.map((_, at) => at % 7));
    const observe = async (tokens?: ReturnType<LayerStream['select']>): Promise<Float32Array[]> => {
      const value = stream.zeros().map((values) => values.fill(-1));
      await stream.observe(
        {},
        ({ graph, values, wanted, inputs }) => {
          assert.ok(wanted && inputs.added);
          graph.output('value', graph.add(graph.add(values.input, wanted), inputs.added));
        },
        { inputs: { added }, into: { value }, tokens },
      );
      return value;
    };
    const whole = await observe();
    const chosen = whole.map(({ length }, batch) =>
      Int32Array.from({ length: length / hidden }, (_, token) => token).filter((token) => (token + batch) % 3 === 0),
    );
    const expected = whole.map((values, batch) =>
      values.map((value, at) => (chosen[batch]?.includes(Math.floor(at / hidden)) ? value : -1)),
    );
    assert.deepEqual(await observe(stream.select(chosen)), expected);
    assert.ok(whole.length > 1 && chosen.flatMap((tokens) => [...tokens]).length > 300);
    stream.dispose();
    device.dispose();
  });
});

describe('refit', () => {
  it('never makes the error on what it was fitted to worse; without rows it keeps the mean', async () => {
    const [width, hidden] = [6, 4];
    const values = (length: number) =>
      fc.array(fc.double({ min: -3, max: 3, noNaN: true }), { minLength: length, maxLength: length });
    const cases = fc
      .integer({ min: 0, max: 9 })
      .chain((rows) => fc.tuple(values(rows * width), values(rows * hidden), values(hidden * width)));
    await fc.assert(
      fc.asyncProperty(cases, async ([h, target, mean]) => {
        const rows = h.length / width;
        const average = Float32Array.from(mean);
        const gram = new Float64Array(width * width);
        const cross = new Float64Array(hidden * width);
        for (let row = 0; row < rows; row++) {
          for (let j = 0; j < width; j++) {
            const hj = h[row * width + j] as number;
            for (let i = 0; i < width; i++)
              gram[i * width + j] = (gram[i * width + j] as number) + (h[row * width + i] as number) * hj;
            for (let o = 0; o < hidden; o++)
              cross[o * width + j] = (cross[o * width + j] as number) + (target[row * hidden + o] as number) * hj;
          }
        }
        const error = (down: Float32Array): number => {
          let sum = 0;
          for (let row = 0; row < rows; row++) {
            for (let o = 0; o < hidden; o++) {
              let y = -(target[row * hidden + o] as number);
              for (let j = 0; j < width; j++) y += (down[o * width + j] as number) * (h[row * width + j] as number);
              sum += y * y;
            }
          }
          return sum;
        };
        const refitted = await ridgeSolve({ gram, cross, rows }, average, width, hidden);
        assert.ok(error(refitted) <= error(average) * (1 + 1e-5) + 1e-5, `${error(refitted)} over ${error(average)}`);
        if (rows === 0) assert.ok(refitted.every((value, i) => value === average[i]));
      }),
      { numRuns: 200 },
    );
  });
});
