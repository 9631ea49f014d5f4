/** Refits on a small model: each makes what it is fitted to better on its own inputs, and never worse. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { Checkpoint } from '../../../lib/checkpoint/checkpoint.ts';
import type { ExpertMatrices } from '../../../lib/compress/expert.ts';
import { type ExpertLayer, originalLayer } from '../../../lib/compress/experts.ts';
import { LayerContext } from '../../../lib/compress/layer-context.ts';
import { wholePart } from '../../../lib/compress/layer-parts.ts';
import { takeNeurons } from '../../../lib/compress/merge/neurons.ts';
import type { Recipe } from '../../../lib/compress/recipe/schema.ts';
import { refitBlock } from '../../../lib/compress/recover/block.ts';
import { refitDown } from '../../../lib/compress/recover/down.ts';
import { type OpenLayer, refitHidden } from '../../../lib/compress/recover/hidden.ts';
import { refitRouter } from '../../../lib/compress/recover/router.ts';
import { moeLayers, openSource } from '../../../lib/compress/source.ts';
import { LayerStream } from '../../../lib/compress/statistics/layer-stream.ts';
import { openDevice } from '../../../lib/device/open.ts';

const path = fileURLToPath(new URL('../../../examples/models/tiny-qwen3-moe', import.meta.url));

/**
 * Runs `body` on layer `index`, entered, where `spoil` changes what the layers before give. `inRuns` makes the context of the same layer
 * that looks at so many bytes together.
 */
async function onLayer(
  index: number,
  body: (layer: ExpertLayer, context: LayerContext, inRuns: (partBytes: number) => LayerContext) => Promise<void>,
  spoil = false,
): Promise<void> {
  using device = await openDevice('cpu', { threads: 2 });
  await using checkpoint = await Checkpoint.open(path);
  const source = openSource(checkpoint);
  const windows = Array.from({ length: 12 }, (_, w) =>
    Int32Array.from({ length: 96 }, (__, i) => (i * i + 7 * w * i) % 2000),
  );
  const stream = new LayerStream(device, checkpoint, source.family, windows);
  try {
    await stream.embed({ withOriginal: spoil });
    for (let before = 0; before < index; before++) {
      await stream.enter(before);
      await stream.leave((weights) => ({
        ...weights,
        spec: { ...weights.spec, router: { ...weights.spec.router, scale: spoil ? 0.5 : 1 } },
      }));
    }
    await stream.enter(index);
    const { spec, names } = moeLayers(source)[index] as ReturnType<typeof moeLayers>[number];
    const recipe: Pick<Recipe, 'recover' | 'refit'> = { recover: 'least-squares', refit: ['gate-up', 'router'] };
    const inRuns = (partBytes: number): LayerContext =>
      new LayerContext(index, spec, names, stream, checkpoint, recipe, undefined, { partBytes });
    const context = inRuns(2 ** 26);
    const experts: ExpertMatrices[] = [];
    for (let expert = 0; expert < spec.router.experts; expert++) experts.push(await context.original(expert));
    await body(originalLayer(experts, spec.kind, { format: 'f32' }), context, inRuns);
  } finally {
    stream.dispose();
  }
}

/** The layer with fewer neurons in each expert, not the same number in all. */
function narrowed(layer: ExpertLayer, context: LayerContext): Promise<ExpertLayer> {
  const experts = layer.slots.map(async (_, slot) => {
    const whole = await context.original(slot);
    return takeNeurons(
      whole,
      Int32Array.from({ length: 16 + 4 * (slot % 5) }, (__, j) => 3 * j),
    );
  });
  return Promise.all(experts).then((matrices) => originalLayer(matrices, layer.kind, { format: 'f32' }));
}

async function moved(
  refit: (layer: OpenLayer, context: LayerContext) => Promise<unknown>,
  { slots, ...layer }: ExpertLayer,
  context: LayerContext,
): Promise<ExpertLayer> {
  const open = { ...layer, slots: [...slots] };
  await refit(open, context);
  return open;
}

describe('refits of a block', () => {
  it('of gate and up bring the output nearer to the original one', () =>
    onLayer(1, async (layer, context) => {
      const narrow = await narrowed(layer, context);
      const fitted = await refitDown(narrow, context, { together: true });
      const before = await context.blockError(fitted);
      const found = await moved(refitHidden, fitted, context);
      const after = await context.blockError(found);
      assert.ok(after.error < 0.95 * before.error, `${after.error} after ${before.error}`);
      for (const [slot, { down }] of found.slots.entries()) {
        assert.deepEqual(down.dense, fitted.slots[slot]?.down.dense);
      }
      const whole = await moved(refitBlock, narrow, context);
      assert.ok((await context.blockError(whole)).error < after.error);
    })).timeout(60_000);

  for (const router of [undefined, 'a router of its own']) {
    it(`of gate and up do so in runs of slots: ${router ?? 'the original router'}`, () =>
      onLayer(1, async (layer, context, inRuns) => {
        const narrow = await narrowed(layer, context);
        const own = { ...narrow, ...(router && { router: await context.router() }) };
        const fitted = await refitDown(own, context, { together: true });
        const before = await context.blockError(fitted);
        const whole = await context.blockError(await moved(refitHidden, fitted, context));
        // One slot at a time, and a few.
        for (const partBytes of [1, 2 ** 20]) {
          const open = { ...fitted, slots: [...fitted.slots] };
          const left = await refitHidden(open, inRuns(partBytes));
          const { error } = await context.blockError(open);
          assert.ok(
            error < before.error - 0.8 * (before.error - whole.error),
            `${error}: ${before.error}, ${whole.error}`,
          );
          // The last run knows what the ones before have made up for.
          const missing = await context.shortfall(open, [wholePart(open)]);
          const energy = missing.flatMap((batch) => [...batch]).reduce((sum, value) => sum + value * value, 0);
          assert.ok(Math.abs(left - energy) < 1e-4 * energy, `${left} for ${energy}`);
        }
      })).timeout(60_000);
  }

  it('of gate and up leave alone what nothing is missing from', () =>
    onLayer(0, async (layer, context, inRuns) => {
      for (const own of [context, inRuns(1)]) {
        const { error, energy } = await context.blockError(await moved(refitHidden, layer, own));
        assert.ok(error <= 1e-9 * energy, `${error} of ${energy}`);
      }
    })).timeout(60_000);

  it('of the router bring the logits nearer to the original ones', () =>
    onLayer(
      2,
      async (_, context) => {
        const { hidden, router } = context.spec;
        const rows = { before: await context.router(), after: await refitRouter(context) };
        const inputs: Float32Array[] = [];
        const originals: Float32Array[] = [];
        await context.stream.observe(
          {},
          ({ graph, values, originalInput }) => {
            graph.output('input', values.input);
            graph.output('originalInput', originalInput as typeof values.input);
          },
          {
            each({ input, originalInput }) {
              inputs.push(input as Float32Array);
              originals.push(originalInput as Float32Array);
            },
          },
        );
        const dot = (matrix: Float32Array, row: number, vectors: Float32Array, token: number): number => {
          let sum = 0;
          for (let i = 0; i < hidden; i++) {
            sum += (matrix[row * hidden + i] as number) * (vectors[token * hidden + i] as number);
          }
          return sum;
        };
        const missed = (matrix: Float32Array): number => {
          let sum = 0;
          for (const [at, input] of inputs.entries()) {
            for (let token = 0; token < input.length / hidden; token++) {
              for (let expert = 0; expert < router.experts; expert++) {
                const wanted = dot(rows.before, expert, originals[at] as Float32Array, token);
                sum += (dot(matrix, expert, input, token) - wanted) ** 2;
              }
            }
          }
          return sum;
        };
        assert.ok(missed(rows.before) > 0);
        assert.ok(missed(rows.after) < 0.9 * missed(rows.before), `${missed(rows.after)} after ${missed(rows.before)}`);
      },
      true,
    )).timeout(60_000);

  it('of the router keep it where the inputs are the original ones', () =>
    onLayer(
      0,
      async (_, context) => {
        const before = await context.router();
        const change = (await refitRouter(context)).map((value, at) => value - (before[at] as number));
        assert.ok(Math.max(...change.map(Math.abs)) < 1e-4);
      },
      true,
    )).timeout(60_000);
});
