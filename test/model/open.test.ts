import { strict as assert } from 'node:assert';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';
import { MoeLayer } from '../../lib/model/moe-layer.ts';
import { Tensor } from '../../lib/tensor/tensor.ts';
import type { WeightFormat } from '../../lib/weight/format.ts';
import { goldenFolder, moeError, tinyModel, withCopy } from './support.ts';

describe('Model.open', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('cpu');
  });
  after(() => device.dispose());

  it('gives config, sizes and a tokenizer, and frees all its memory', async () => {
    const before = device.memory().held;
    const seen: number[] = [];
    const model = await Model.open(tinyModel, {
      device,
      onProgress: ({ phase, done, total }) => {
        assert.equal(phase, 'load');
        assert.ok(done <= total);
        seen.push(done / total);
      },
    });
    assert.equal(seen.at(-1), 1);
    assert.deepEqual(
      seen,
      [...seen].sort((a, b) => a - b),
    );
    const { config } = model;
    assert.equal(config.family, 'qwen3_moe');
    assert.deepEqual([config.layers.length, config.hidden, config.vocabulary, config.context], [4, 128, 2048, 1024]);
    assert.equal(model.bytes, 7_254_400);
    assert.equal(model.device, device);
    assert.equal(model.tokenizer.decode(model.tokenizer.encode('export class')), 'export class');
    const fresh = model.memory();
    assert.equal(fresh.cache + fresh.arena, 0);
    assert.ok(fresh.weights > 7e6 && fresh.weights < 12e6, `${fresh.weights}`);
    await model.logits([1, 2, 3]);
    const used = model.memory();
    assert.ok(used.cache > 0 && used.arena > 0);
    assert.equal(used.total, used.weights + used.cache + used.arena);
    await model.dispose();
    await model.dispose();
    assert.equal(device.disposed, false);
    assert.equal(device.memory().held, before);
  });

  it('is smaller with int4 experts', async () => {
    await using stored = await Model.open(tinyModel, { device });
    await using int4 = await Model.open(tinyModel, { device, weights: { format: 'int4' } });
    assert.ok(int4.memory().weights < 0.5 * stored.memory().weights);
  });

  it('quantizes attention only where asked', async () => {
    await using experts = await Model.open(tinyModel, { device, weights: { format: 'int8' } });
    await using both = await Model.open(tinyModel, {
      device,
      weights: { format: 'int8', attention: { format: 'int8' } },
    });
    assert.ok(both.memory().weights < experts.memory().weights);
    const weights = { format: 'int3' } as unknown as WeightFormat;
    await assert.rejects(Model.open(tinyModel, { device, weights }), moeError('INVALID_ARGUMENT', /int3/));
    await assert.rejects(
      Model.open(tinyModel, { device, weights: 'int4' as never }),
      moeError('INVALID_ARGUMENT', /weights/),
    );
  });

  it('opens devices by name, and disposes those', async () => {
    const model = await Model.open(tinyModel, { device: 'reference', weights: { format: 'int4' } });
    assert.equal(model.device.name, 'reference');
    await model.logits([1, 2]);
    await model.dispose();
    assert.equal(model.device.disposed, true);
    await assert.rejects(Model.open(tinyModel, { device: 'abacus' }), moeError('DEVICE_UNAVAILABLE', /abacus/));
  });

  it('refuses every call after dispose', async () => {
    const model = await Model.open(tinyModel, { device });
    const paused = model.generate('import ', { maxTokens: 4 });
    await paused.next();
    const running = model.logits(new Int32Array(300));
    await model.dispose();
    await running.catch(moeError('DISPOSED'));
    await assert.rejects(paused.next(), moeError('DISPOSED'));
    assert.throws(() => model.memory(), moeError('DISPOSED', /model/));
    await assert.rejects(model.logits([1]), moeError('DISPOSED', /model/));
    await assert.rejects(model.evaluate(new Int32Array(512)), moeError('DISPOSED', /model/));
    await assert.rejects(model.generate('x').next(), moeError('DISPOSED', /model/));
  });

  it('obeys its signal and leaves nothing behind', async () => {
    const before = device.memory().held;
    const reason = new Error('enough');
    await assert.rejects(Model.open(tinyModel, { device, signal: AbortSignal.abort(reason) }), /enough/);
    const controller = new AbortController();
    const onProgress = () => controller.abort(reason);
    await assert.rejects(Model.open(tinyModel, { device, signal: controller.signal, onProgress }), /enough/);
    assert.equal(device.memory().held, before);
  });

  it('lists missing and unknown tensors', async () => {
    const open = (copy: string) => Model.open(copy, { device });
    const set = (values: Record<string, unknown>) => (config: Record<string, unknown>) =>
      void Object.assign(config, values);
    await withCopy(tinyModel, set({ num_hidden_layers: 3 }), (copy) =>
      assert.rejects(
        open(copy),
        moeError('CHECKPOINT_TENSOR_UNKNOWN', /model\.layers\.3\.input_layernorm\.weight.*and \d+ more/),
      ),
    );
    await withCopy(tinyModel, set({ num_hidden_layers: 5 }), (copy) =>
      assert.rejects(open(copy), moeError('CHECKPOINT_TENSOR_MISSING', /model\.layers\.4\.input_layernorm\.weight/)),
    );
    await withCopy(tinyModel, set({ tie_word_embeddings: false }), (copy) =>
      assert.rejects(open(copy), moeError('CHECKPOINT_TENSOR_MISSING', /lm_head\.weight/)),
    );
    await withCopy(tinyModel, set({ num_local_experts: 65_536, num_hidden_layers: 10_000 }), (copy) =>
      assert.rejects(open(copy), moeError('CHECKPOINT_TENSOR_MISSING', /and \d+ more/)),
    );
    await withCopy(tinyModel, set({ moe_intermediate_size: 64 }), (copy) =>
      assert.rejects(open(copy), moeError('SHAPE_MISMATCH', /gate_proj/)),
    );
    await withCopy(tinyModel, set({ head_dim: 64 }), (copy) =>
      assert.rejects(open(copy), moeError('SHAPE_MISMATCH', /q_proj/)),
    );
  });

  it('works without a tokenizer, by ids', async () => {
    await withCopy(
      tinyModel,
      () => {},
      async (copy) => {
        await rm(join(copy, 'tokenizer.json'));
        await using model = await Model.open(copy, { device });
        assert.throws(() => model.tokenizer, moeError('TOKENIZER_INVALID', /tokenizer\.json/));
        await assert.rejects(model.generate('x').next(), moeError('TOKENIZER_INVALID'));
        const { value } = await model.generate([5, 6], { maxTokens: 1 }).next();
        assert.ok(value && value.text === '' && Number.isInteger(value.id));
      },
    );
  });
});

describe('MoeLayer', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('cpu');
  });
  after(() => device.dispose());

  it('takes host arrays and tensors of any length', async () => {
    await using checkpoint = await Checkpoint.open(tinyModel);
    using layer = await MoeLayer.open(checkpoint, 2, { device, weights: { format: 'int8' } });
    const { hidden } = layer.spec;
    const x = Float32Array.from({ length: 600 * hidden }, (_, index) => Math.sin(index));
    const y = await layer.forward(x);
    using input = await Tensor.from(device, x, { dtype: 'f32', shape: [600, hidden] });
    using output = await layer.forward(input);
    assert.deepEqual(await output.read(), y);
    assert.deepEqual(await layer.forward(x.subarray(0, hidden)), y.subarray(0, hidden));
    assert.equal((await layer.forward(new Float32Array(0))).length, 0);
    await assert.rejects(layer.forward(new Float32Array(hidden + 1)), moeError('SHAPE_MISMATCH', /tokens, 128/));
    layer.dispose();
    await assert.rejects(layer.forward(x), moeError('DISPOSED', /layer/));
  });

  it('refuses layers that are not there or dense', async () => {
    await using checkpoint = await Checkpoint.open(tinyModel);
    for (const index of [-1, 4, 0.5]) {
      await assert.rejects(MoeLayer.open(checkpoint, index, { device }), moeError('INVALID_ARGUMENT', /index/));
    }
    await using mixed = await Checkpoint.open(goldenFolder('qwen2_moe'));
    await assert.rejects(MoeLayer.open(mixed, 1, { device }), moeError('INVALID_ARGUMENT', /dense/));
    await using block = await Checkpoint.open(goldenFolder('mixtral', 'block'));
    await assert.rejects(Model.open(block.folder, { device }), moeError('CHECKPOINT_TENSOR_MISSING', /embed_tokens/));
  });
});
