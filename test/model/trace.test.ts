/** Traces against the layers run alone, and against the router's definition. */
import { strict as assert } from 'node:assert';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';
import { MoeLayer } from '../../lib/model/moe-layer.ts';
import type { LayerTrace, TracePart } from '../../lib/model/trace.ts';
import { evaluationText, goldenFolder, moeError, tinyModel } from './support.ts';

describe('Model.trace', () => {
  let device: Device;
  let model: Model;
  let ids: Int32Array;
  before(async () => {
    device = await openDevice('cpu');
    model = await Model.open(tinyModel, { device });
    ids = model.tokenizer.encode(await evaluationText('node'));
  });
  after(async () => {
    await model.dispose();
    device.dispose();
  });

  it('gives what the layers see, also over several runs', async () => {
    const length = 700;
    const { tokens, layers } = await model.trace(ids.subarray(0, length));
    assert.equal(tokens, length);
    const { hidden } = model.config;
    assert.equal(layers.length, model.config.layers.length);
    const inputs = await blockInputs(ids.subarray(0, length));
    for (const [index, layer] of layers.entries()) {
      assert.deepEqual([layer.layer, layer.kind, layer.hidden?.length], [index, 'moe', length * hidden]);
      await using checkpoint = await Checkpoint.open(tinyModel);
      await using block = await MoeLayer.open(checkpoint, index, { device });
      const alone = await block.trace(inputs[index] as Float32Array);
      assert.deepEqual(layer.routerLogits, alone.routerLogits);
      assert.deepEqual(layer.ids, alone.ids);
      assert.deepEqual(layer.gates, alone.gates);
    }
  });

  it('gives the hidden states from which the logits come', async () => {
    const length = 40;
    const { layers } = await model.trace(ids.subarray(0, length), { include: ['hidden'] });
    await using checkpoint = await Checkpoint.open(tinyModel);
    const norm = await checkpoint.readF32('model.norm.weight');
    const name = checkpoint.has('lm_head.weight') ? 'lm_head.weight' : 'model.embed_tokens.weight';
    const head = await checkpoint.readF32(name);
    const { hidden, epsilon, vocabulary } = model.config;
    const { data } = await model.logits(ids.subarray(0, length));
    const last = layers.at(-1)?.hidden as Float32Array;
    for (const token of [0, 17, length - 1]) {
      const row = last.subarray(token * hidden, (token + 1) * hidden);
      const scale = 1 / Math.sqrt(row.reduce((sum, x) => sum + x * x, 0) / hidden + epsilon);
      for (const id of [0, 5, vocabulary - 1]) {
        const logit = row.reduce(
          (sum, x, i) => sum + x * scale * (norm[i] as number) * (head[id * hidden + i] as number),
          0,
        );
        assert.ok(Math.abs(logit - (data[token * vocabulary + id] as number)) < 2e-2, `token ${token}, id ${id}`);
      }
    }
  });

  it('leaves out what was not asked for, and routing in dense layers', async () => {
    const keys = async (include: TracePart[] | undefined, of = model): Promise<string[][]> =>
      (await of.trace([1, 2, 3], { include })).layers.map((layer: LayerTrace) => Object.keys(layer));
    const all = ['layer', 'kind', 'routerLogits', 'ids', 'gates', 'hidden'];
    assert.deepEqual((await keys(undefined))[0], all);
    assert.deepEqual((await keys(['experts']))[1], ['layer', 'kind', 'ids', 'gates']);
    assert.deepEqual((await keys(['routerLogits']))[1], ['layer', 'kind', 'routerLogits']);
    assert.deepEqual((await keys([]))[1], ['layer', 'kind']);
    await using mixed = await Model.open(goldenFolder('qwen3_moe', 'model_dense_last'), { device });
    const kinds = mixed.config.layers.map(({ block }) => block.kind);
    assert.ok(kinds.includes('dense'));
    assert.deepEqual(
      await keys(undefined, mixed),
      kinds.map((kind) => (kind === 'moe' ? all : ['layer', 'kind', 'hidden'])),
    );
  });

  it('refuses what it cannot trace', async () => {
    const { context } = model.config;
    await assert.rejects(model.trace([]), moeError('INVALID_ARGUMENT', /ids/));
    await assert.rejects(model.trace([-1]), moeError('INVALID_ARGUMENT', /ids\[0\]/));
    await assert.rejects(model.trace(new Int32Array(context + 1)), moeError('CONTEXT_EXCEEDED'));
    const include = ['all'] as unknown as TracePart[];
    await assert.rejects(model.trace([1], { include }), moeError('INVALID_ARGUMENT', /include\[0\]/));
    const reason = new Error('enough');
    await assert.rejects(model.trace([1], { signal: AbortSignal.abort(reason) }), reason);
    assert.equal((await model.trace([1])).tokens, 1);
  });

  /** The inputs of all MoE blocks, f32 [tokens, hidden]. */
  async function blockInputs(window: Int32Array): Promise<Float32Array[]> {
    const parts = model.config.layers.map((): Float32Array[] => []);
    await model.observe([window], (graph, { layer, input }) => void graph.output(`input.${layer}`, input), {
      onOutputs: async (outputs) => {
        for (const [layer, own] of parts.entries()) {
          own.push((await outputs[`input.${layer}`]?.read()) as Float32Array);
        }
      },
    });
    return parts.map((own) => Float32Array.from(own.flatMap((part) => Array.from(part))));
  }
});
