import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { Checkpoint } from '../../../lib/checkpoint/checkpoint.ts';
import type { ExpertMatrices } from '../../../lib/compress/expert.ts';
import { type ExpertLayer, originalLayer } from '../../../lib/compress/experts.ts';
import { LayerContext } from '../../../lib/compress/layer-context.ts';
import { outputGradients } from '../../../lib/compress/reconstruct/gradients.ts';
import { moeLayers, openSource } from '../../../lib/compress/source.ts';
import { LayerStream } from '../../../lib/compress/statistics/layer-stream.ts';
import { reconstructingStep } from '../../../lib/compress/steps/reconstruct.ts';
import type { Device } from '../../../lib/device/device.ts';
import { openDevice } from '../../../lib/device/open.ts';

const model = fileURLToPath(new URL('../../../examples/models/tiny-qwen3-moe', import.meta.url));
const names = ['gate', 'up', 'down'] as const;

describe("gradients of a layer's own output error", () => {
  let device: Device;
  let checkpoint: Checkpoint;
  let stream: LayerStream;
  let context: LayerContext;
  let experts: ExpertMatrices[];
  let layer: ExpertLayer;
  before(async () => {
    device = await openDevice('cpu');
    checkpoint = await Checkpoint.open(model);
    const source = openSource(checkpoint);
    const windows = Array.from({ length: 8 }, (_, w) => Int32Array.from({ length: 100 }, (_, i) => (i * (w + 3)) % 64));
    stream = new LayerStream(device, checkpoint, source.family, windows);
    await stream.embed();
    await stream.enter(0);
    const [first] = moeLayers(source);
    assert.ok(first);
    context = new LayerContext(0, first.spec, first.names, stream, checkpoint, { recover: 'none', refit: [] });
    const originals: ExpertMatrices[] = [];
    for (let expert = 0; expert < 16; expert++) originals.push(await context.original(expert));
    // Two experts a slot, and slots of different widths, so that there is an error.
    experts = originals.slice(0, 8).map((expert, slot) => narrowed(expert, 128 - 8 * slot));
    layer = {
      ...originalLayer(experts, 'swiglu', { format: 'f32' }),
      groupOf: Int32Array.from({ length: 16 }, (_, e) => e % 8),
    };
  });
  after(async () => {
    stream.dispose();
    await checkpoint.close();
    device.dispose();
  });

  /** The first neurons of an expert. */
  function narrowed({ hidden, gate, up, down, width }: ExpertMatrices, own: number): ExpertMatrices {
    const columns = Float32Array.from({ length: hidden * own }, (_, at) => {
      return down[Math.floor(at / own) * width + (at % own)] as number;
    });
    return { hidden, width: own, gate: gate?.slice(0, own * hidden), up: up.slice(0, own * hidden), down: columns };
  }

  it('are what a small step changes, matrix by matrix', async () => {
    const { slots, error } = await outputGradients(layer, experts, context);
    assert.ok(Math.abs(error / (await context.blockError(layer)).error - 1) < 1e-5);
    for (const name of names) {
      const directions = slots.map((slot) => slot[name].map((value, at) => value + Math.sin(at)));
      const slope = directions.reduce(
        (sum, direction, slot) =>
          sum + direction.reduce((own, value, at) => own + value * (slots[slot]?.[name][at] as number), 0),
        0,
      );
      const size =
        1e-3 / Math.sqrt(directions.reduce((sum, d) => sum + d.reduce((own, value) => own + value ** 2, 0), 0));
      const errors: number[] = [];
      for (const step of [size, -size]) {
        const moved = experts.map((expert, slot) => ({
          ...expert,
          [name]: expert[name]?.map((value, at) => value + step * (directions[slot]?.[at] as number)),
        }));
        errors.push((await outputGradients(layer, moved, context)).error);
      }
      // The error is twice what the gradient is of.
      const measured = ((errors[0] as number) - (errors[1] as number)) / (4 * size);
      assert.ok(Math.abs(measured / slope - 1) < 1e-2, `${name}: ${slope}, measured ${measured}`);
    }
  });

  it('of the batches add up to those of all tokens', async () => {
    const all = await outputGradients(layer, experts, context);
    const parts = [
      await outputGradients(layer, experts, context, 0),
      await outputGradients(layer, experts, context, 3),
    ];
    const errors = parts.reduce((sum, { error }) => sum + error, 0);
    assert.ok(Math.abs(errors / all.error - 1) < 1e-9);
    for (const name of names) {
      const sum = parts[0]?.slots[1]?.[name].map((value, at) => value + (parts[1]?.slots[1]?.[name][at] as number));
      const largest = Math.max(...(sum?.map(Math.abs) ?? []));
      sum?.forEach((value, at) => {
        assert.ok(Math.abs(value - (all.slots[1]?.[name][at] as number)) <= 1e-5 * largest);
      });
    }
  });

  it('bring the layer nearer to the original one, step by step', async () => {
    const before = await context.blockError(layer);
    const step = reconstructingStep({ step: 'reconstruct', steps: 40, rate: 0.01 });
    const moved = await step.apply(layer, context, undefined);
    const after = await context.blockError(moved);
    assert.ok(after.error < 0.8 * before.error, `${after.error} of ${before.error}`);
    assert.deepEqual(
      moved.slots.map(({ width }) => width),
      layer.slots.map(({ width }) => width),
    );
    assert.equal((await context.blockError(layer)).error, before.error);
  });

  it('are refused for matrices that are not dense', async () => {
    const slots = layer.slots.map((slot) => {
      const factors = { rank: 1, a: new Float32Array(128), b: new Float32Array(128) };
      return { ...slot, down: { rows: 128, columns: slot.width, factors } };
    });
    const step = reconstructingStep({ step: 'reconstruct', steps: 1, rate: 0.01 });
    const dense = { code: 'RECIPE_INVALID', argument: 'step' };
    await assert.rejects(async () => step.apply({ ...layer, slots }, context, undefined), dense);
  });

  it('are refused where experts are not SwiGLU', async () => {
    const refused = { code: 'RECIPE_INVALID', argument: 'steps' };
    await assert.rejects(outputGradients({ ...layer, kind: 'geglu' }, experts, context), refused);
  });
});
