import assert from 'node:assert/strict';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { denseMatrices, type ExpertLayer } from '../../lib/compress/experts.ts';
import { LayerContext } from '../../lib/compress/layer-context.ts';
import { partsOf } from '../../lib/compress/layer-parts.ts';
import type { Recipe } from '../../lib/compress/recipe/schema.ts';
import { parseRecipe, type RecipeStep } from '../../lib/compress/recipe/schema.ts';
import { moeLayers, openSource } from '../../lib/compress/source.ts';
import { LayerStream } from '../../lib/compress/statistics/layer-stream.ts';
import { makeStep } from '../../lib/compress/steps/index.ts';
import { openDevice } from '../../lib/device/open.ts';

const folder = join(fileURLToPath(new URL('../../', import.meta.url)), 'examples/models/tiny-qwen3-moe');

describe('a layer in runs of slots', () => {
  let close: () => void;
  /** Of a layer at once, and of one or a few slots at a time. */
  let whole: LayerContext;
  let single: LayerContext;
  let few: LayerContext;
  let layers: Record<string, ExpertLayer>;

  before(async () => {
    const device = await openDevice('cpu');
    const checkpoint = await Checkpoint.open(folder);
    const source = openSource(checkpoint);
    const windows = [200, 90, 256, 100].map((length, w) =>
      Int32Array.from({ length }, (_, i) => (i * (w + 3) + w) % 64),
    );
    const stream = new LayerStream(device, checkpoint, source.family, windows);
    const [layer] = moeLayers(source);
    assert.ok(layer);
    const { index, spec, names } = layer;
    await stream.embed({ withOriginal: true });
    await stream.enter(index);
    const recipe: Pick<Recipe, 'recover' | 'refit'> = { recover: 'least-squares', refit: [] };
    const context = (partBytes?: number): LayerContext =>
      new LayerContext(index, spec, names, stream, checkpoint, recipe, undefined, partBytes ? { partBytes } : {});
    whole = context();
    single = context(1);
    few = context(5 * 8 * spec.width * (spec.width + spec.hidden));
    const original = whole.originals({ format: 'bf16' });
    const groups = 6;
    const groupOf = original.groupOf.map((expert) => (expert * 5) % groups);
    // Slots of different widths.
    const slots = original.slots.slice(0, groups).map((_, slot) => {
      const width = spec.width - 8 * slot;
      const { gate, up, down, hidden } = denseMatrices(original, slot);
      const columns = Float32Array.from({ length: hidden * width }, (__, at) =>
        Number(down[Math.floor(at / width) * spec.width + (at % width)]),
      );
      const rows = { rows: width, columns: hidden };
      return {
        hidden,
        width,
        gate: { ...rows, dense: (gate as Float32Array).slice(0, width * hidden) },
        up: { ...rows, dense: up.slice(0, width * hidden) },
        down: { rows: hidden, columns: width, dense: columns },
      };
    });
    const router = (await whole.router()).slice(0, groups * spec.hidden);
    const merged = { ...original, slots, groupOf };
    layers = { originals: original, merged, 'with a router of its own': { ...merged, router } };
    close = () => {
      stream.dispose();
      checkpoint.close();
      device.dispose();
    };
  });
  after(() => close());

  it('covers every slot once', () => {
    const { merged } = layers as { merged: ExpertLayer };
    const parts = partsOf(merged, 1, 4);
    assert.deepEqual(
      parts.map(({ first, layer }) => [first, layer.slots.length]),
      [
        [0, 3],
        [3, 3],
      ],
    );
    merged.groupOf.forEach((slot, expert) => {
      const found = parts.flatMap(({ first, partOf }) =>
        Number(partOf[expert]) < 0 ? [] : [first + Number(partOf[expert])],
      );
      assert.deepEqual(found, [slot]);
    });
  });

  for (const name of ['originals', 'merged', 'with a router of its own']) {
    it(`has the statistics of the whole layer: ${name}`, async () => {
      const layer = layers[name] as ExpertLayer;
      const expected = await whole.blockError(layer);
      for (const context of [single, few]) {
        const inputs = [whole.inputMoments(layer, 2), context.inputMoments(layer, 2)] as const;
        for (const slot of layer.slots.keys()) same(await inputs[0].of(slot), await inputs[1].of(slot));
        for (const together of [false, true]) {
          const all = await whole.hiddenMoments(layer, { together });
          const runs = await context.hiddenMoments(layer, { together });
          for (const slot of layer.slots.keys()) same(await all.of(slot), await runs.of(slot));
        }
        const { error, energy } = await context.blockError(layer);
        near(error, expected.error, expected.energy);
        near(energy, expected.energy, expected.energy);
      }
    });
  }

  it('asks of a run what the other slots leave to it', async () => {
    const { merged } = layers as { merged: ExpertLayer };
    const { error, energy } = await whole.blockError(merged);
    const [all, ...runs] = [partsOf(merged, 1, 6), partsOf(merged, 1, 4)].flat();
    assert.ok(all);
    const missing = await whole.shortfall(merged, runs);
    near(squares(missing), error, energy);
    // Nothing lies before the first layer that could be lost: all slots together are asked for the original output.
    const aim = await whole.runAim(merged, all, missing);
    near(squares(aim), energy, energy);
    // Each run's has what all are short of.
    const asked = await Promise.all(runs.map((part) => whole.runAim(merged, part, missing)));
    const over = runs.length - 1;
    const differences = aim.map((batch, at) =>
      batch.map((value, i) => {
        const sum = asked.reduce((total, own) => total + Number(own[at]?.[i]), 0);
        return sum - over * Number(missing[at]?.[i]) - value;
      }),
    );
    near(squares(differences), 0, energy);
  });

  for (const [method, align] of [
    ['frequency', 'activations'],
    ['least-squares', 'dominant'],
  ] as const) {
    it(`merges groups as all at once: ${method}, aligned by ${align}`, async () => {
      const { originals } = layers as { originals: ExpertLayer };
      const experts = originals.slots.length;
      const labels = Array.from({ length: experts }, (_, expert) => (expert * 5) % 6);
      const weights = labels.map((_, expert) => 1 + (expert % 3));
      const merged = async (context: LayerContext): Promise<ExpertLayer> => {
        context.grouping = { groups: 6, labels, weights, frequencies: weights, similarity: [], router: 'experts' };
        const [step] = parseRecipe({ steps: [{ step: 'merge', method, align }] }).steps;
        return makeStep(step as RecipeStep).apply(originals, context, undefined);
      };
      const [all, runs] = [await merged(whole), await merged(single)];
      for (const slot of all.slots.keys()) {
        const { gate, up, down } = denseMatrices(all, slot);
        const found = denseMatrices(runs, slot);
        same({ gate, up }, { gate: found.gate, up: found.up });
        same({ down }, { down: found.down }, 1e-3);
      }
    });
  }
});

/** Sums alike, but for the order of f32 additions. */
function same(one: object, other: object, tolerance = 2e-6): void {
  for (const [name, value] of Object.entries(one)) {
    const found = (other as Record<string, unknown>)[name];
    if (typeof value === 'number') {
      assert.equal(found, value, name);
      continue;
    }
    const [a, b] = [value as Float64Array, found as Float64Array];
    assert.equal(a.length, b.length, name);
    const most = a.reduce((sum, x) => Math.max(sum, Math.abs(x)), 0);
    for (const [at, x] of a.entries()) near(b[at] as number, x, most, tolerance);
  }
}

function squares(batches: readonly Float32Array[]): number {
  return batches.reduce((total, batch) => batch.reduce((sum, value) => sum + value * value, total), 0);
}

function near(found: number, expected: number, scale: number, tolerance = 2e-6): void {
  assert.ok(Math.abs(found - expected) <= tolerance * scale, `${found} for ${expected}`);
}
