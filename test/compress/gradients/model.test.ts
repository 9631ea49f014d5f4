/** Gradients of a whole model's loss, against those of torch and against what small steps change. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { Checkpoint } from '../../../lib/checkpoint/checkpoint.ts';
import { SafetensorsFile } from '../../../lib/checkpoint/safetensors-file.ts';
import { denseExpert, denseMatrices, type ExpertLayer, layerOf } from '../../../lib/compress/experts.ts';
import { type ExpertGradients, matrixNames } from '../../../lib/compress/gradients/experts.ts';
import { modelGradients } from '../../../lib/compress/gradients/model.ts';
import { originalExpert } from '../../../lib/compress/originals.ts';
import { moeLayers, openSource, type Source } from '../../../lib/compress/source.ts';
import type { Device } from '../../../lib/device/device.ts';
import { openDevice } from '../../../lib/device/open.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** Two experts a slot, so that choices share rows: expert e runs as e modulo half of the experts. */
async function mergedLayers(source: Source): Promise<Map<number, ExpertLayer>> {
  const layers = new Map<number, ExpertLayer>();
  for (const { index, spec, names } of moeLayers(source)) {
    const { experts } = spec.router;
    const half = Math.ceil(experts / 2);
    const slots = [];
    for (let slot = 0; slot < half; slot++) {
      slots.push(denseExpert(await originalExpert(source.checkpoint, spec, names.expert(slot))));
    }
    const groupOf = Int32Array.from({ length: experts }, (_, expert) => expert % half);
    layers.set(index, { ...layerOf(slots, spec.kind, { format: 'f32' }), groupOf });
  }
  return layers;
}

/** The layers with each matrix moved along a direction. */
function moved(
  layers: ReadonlyMap<number, ExpertLayer>,
  directions: ReadonlyMap<number, readonly ExpertGradients[]>,
  step: number,
): Map<number, ExpertLayer> {
  const result = new Map<number, ExpertLayer>();
  for (const [index, layer] of layers) {
    const slots = layer.slots.map((_, slot) => {
      const expert = denseMatrices(layer, slot);
      const along = directions.get(index)?.[slot] as ExpertGradients;
      const matrices = matrixNames.map((name) => {
        return [name, expert[name]?.map((value, at) => value + step * (along[name][at] as number))];
      });
      return denseExpert({ ...expert, ...Object.fromEntries(matrices) });
    });
    result.set(index, { ...layer, slots });
  }
  return result;
}

const folders = [
  'examples/models/tiny-qwen3-moe',
  'test/golden/families/mixtral/model_window',
  'test/golden/families/olmoe/model_clip_v4',
  'test/golden/families/qwen2_moe/model',
  'test/golden/families/qwen3_moe/model_dense_last',
  'test/golden/families/qwen3_moe/model_yarn_v4',
];

describe("gradients of the whole model's loss", () => {
  const ids = Int32Array.from({ length: 40 }, (_, at) => (at * at * 7 + at) % 61);
  let device: Device;
  let golden: SafetensorsFile;
  before(async () => {
    device = await openDevice('cpu');
    golden = await SafetensorsFile.open(`${root}test/golden/gradients/expected.safetensors`);
  });
  after(() => {
    golden[Symbol.dispose]();
    device.dispose();
  });

  async function gradientsOf(
    source: Source,
    layers: ReadonlyMap<number, ExpertLayer>,
  ): Promise<{ loss: number; gradients: Map<number, readonly ExpertGradients[]> }> {
    const gradients = new Map<number, readonly ExpertGradients[]>();
    const loss = await modelGradients(device, source, ids, {
      experts: async (index) => layers.get(index) as ExpertLayer,
      visit: (index, slots) => gradients.set(index, slots),
    });
    return { loss, gradients };
  }

  for (const folder of folders) {
    it(`are those of torch: ${folder}`, async () => {
      await using checkpoint = await Checkpoint.open(`${root}${folder}`);
      const source = openSource(checkpoint);
      const { loss, gradients } = await gradientsOf(source, await mergedLayers(source));
      assert.ok(Math.abs(loss - ((await golden.readF32(`${folder}.loss`))[0] as number)) < 1e-5 * loss);
      for (const [index, slots] of gradients) {
        for (const name of matrixNames) {
          const expected = await golden.readF32(`${folder}.${index}.${name}`);
          for (const [slot, { [name]: values }] of slots.entries()) {
            const [norm, ...entries] = expected.subarray(slot * 17, (slot + 1) * 17) as unknown as [
              number,
              ...number[],
            ];
            const near = (got: number, want: number): void => {
              assert.ok(Math.abs(got - want) <= 1e-4 * norm, `${index}, ${name} ${slot}: ${got} for ${want}`);
            };
            near(Math.hypot(...values), norm);
            entries.forEach((want, k) => {
              near(values[(k * 7919 + 3) % values.length] as number, want);
            });
          }
        }
      }
    });

    it(`are what a small step changes: ${folder}`, async () => {
      await using checkpoint = await Checkpoint.open(`${root}${folder}`);
      const source = openSource(checkpoint);
      const layers = await mergedLayers(source);
      const { gradients } = await gradientsOf(source, layers);
      const slopes = [...gradients.values()].flatMap((slots) => slots.flatMap((slot) => Object.values(slot)));
      const square = slopes.reduce((sum, slope) => sum + slope.reduce((own, value) => own + value * value, 0), 0);
      const step = 3e-3 / square;
      const [up, down] = [
        (await gradientsOf(source, moved(layers, gradients, step))).loss,
        (await gradientsOf(source, moved(layers, gradients, -step))).loss,
      ];
      const measured = (up - down) / (2 * step);
      assert.ok(Math.abs(measured / square - 1) < 1e-3, `${square}, measured ${measured}`);
    });
  }

  it('are refused for experts that are not SwiGLU', async () => {
    await using checkpoint = await Checkpoint.open(`${root}${folders[0]}`);
    const source = openSource(checkpoint);
    const other = { ...source, config: { ...source.config, kind: 'geglu' as const } };
    await assert.rejects(gradientsOf(other, new Map()), { code: 'UNSUPPORTED', argument: 'importance' });
  });
});
