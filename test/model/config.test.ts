/** config.json of every family: both spellings of transformers, defaults, and refusals before anything is allocated. */
import { strict as assert } from 'node:assert';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { decoderConfig } from '../../lib/model/family.ts';
import { ropeFrequencies } from '../../lib/model/rope.ts';
import { goldenFolder, moeError } from './support.ts';

type Raw = Record<string, unknown>;

async function raw(family: string): Promise<Raw> {
  return JSON.parse(await readFile(join(goldenFolder(family), 'config.json'), 'utf8'));
}

/** The way transformers 4 writes it. */
function older(config: Raw): Raw {
  const { rope_parameters: rope, dtype, num_local_experts: experts, ...rest } = config;
  return {
    ...rest,
    rope_theta: (rope as Raw).rope_theta,
    rope_scaling: null,
    torch_dtype: dtype,
    ...(experts !== undefined && { [config.model_type === 'mixtral' ? 'num_local_experts' : 'num_experts']: experts }),
  };
}

describe('config.json', () => {
  for (const family of ['mixtral', 'qwen2_moe', 'qwen3_moe', 'olmoe']) {
    it(`${family}: transformers 4 and 5 read alike`, async () => {
      const config = await raw(family);
      assert.deepEqual(decoderConfig(older(config)), decoderConfig(config));
      assert.equal(decoderConfig(config).family, family);
    });

    it(`${family}: every bad value is an error with its key`, async () => {
      const config = await raw(family);
      const keys = ['vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'num_experts_per_tok'];
      for (const key of keys) {
        for (const value of [0, -1, 1.5, '8', null, 1e12, Number.NaN, [], {}]) {
          assert.throws(() => decoderConfig({ ...config, [key]: value }), moeError('CONFIG_INVALID', new RegExp(key)));
        }
      }
      assert.throws(
        () => decoderConfig({ ...config, num_key_value_heads: 3 }),
        moeError('CONFIG_INVALID', /num_key_value_heads/),
      );
      assert.throws(
        () => decoderConfig({ ...config, num_experts_per_tok: 99 }),
        moeError('CONFIG_INVALID', /num_experts_per_tok/),
      );
      assert.throws(() => decoderConfig({ ...config, head_dim: 7 }), moeError('CONFIG_INVALID', /head_dim/));
      assert.throws(() => decoderConfig({ ...config, rms_norm_eps: -1 }), moeError('CONFIG_INVALID', /rms_norm_eps/));
      assert.throws(() => decoderConfig({ ...config, eos_token_id: -1 }), moeError('CONFIG_INVALID', /eos_token_id/));
      assert.throws(() => decoderConfig({ ...config, hidden_act: 'relu6' }), moeError('CONFIG_UNSUPPORTED', /relu6/));
      const dynamic = { rope_parameters: { rope_type: 'dynamic', rope_theta: 1e4, factor: 4 } };
      assert.throws(() => decoderConfig({ ...config, ...dynamic }), moeError('CONFIG_UNSUPPORTED', /dynamic/));
    });
  }

  it('names the known families', () => {
    assert.throws(
      () => decoderConfig({ model_type: 'gpt2' }),
      moeError('CONFIG_UNSUPPORTED', /mixtral, olmoe, qwen2_moe, qwen3_moe/),
    );
    assert.throws(() => decoderConfig({}), moeError('CONFIG_INVALID', /model_type/));
    assert.throws(() => decoderConfig({ model_type: '__proto__' }), moeError('CONFIG_UNSUPPORTED'));
  });

  it('reads windows: null, 0 and unused mean none', async () => {
    const mixtral = await raw('mixtral');
    const windows = (config: Raw) => decoderConfig(config).layers.map(({ window }) => window);
    assert.deepEqual(windows({ ...mixtral, sliding_window: 8 }), [8, 8]);
    assert.deepEqual(windows({ ...mixtral, sliding_window: 0 }), [0, 0]);
    const qwen3 = await raw('qwen3_moe');
    assert.deepEqual(windows({ ...qwen3, sliding_window: 8 }), [0, 0]);
    assert.deepEqual(windows({ ...qwen3, sliding_window: 8, use_sliding_window: true }), [8, 8]);
    const qwen2: Raw = { ...(await raw('qwen2_moe')), sliding_window: 8, use_sliding_window: true };
    const types = ['full_attention', 'sliding_attention', 'full_attention'];
    assert.deepEqual(windows({ ...qwen2, layer_types: types }), [0, 8, 0]);
    assert.deepEqual(windows({ ...qwen2, layer_types: null, max_window_layers: 28 }), [8, 0, 8]);
    assert.deepEqual(windows({ ...qwen2, layer_types: null, max_window_layers: 2 }), [8, 0, 0]);
    // These families do not read layer_types.
    const two = ['full_attention', 'sliding_attention'];
    assert.deepEqual(windows({ ...mixtral, sliding_window: 8, layer_types: two }), [8, 8]);
    const used = { ...qwen3, sliding_window: 8, use_sliding_window: true };
    assert.deepEqual(windows({ ...used, layer_types: two }), [8, 8]);
    const unknown = { ...qwen2, layer_types: ['full_attention', 'ring_attention', 'full_attention'] };
    assert.throws(() => decoderConfig(unknown), moeError('CONFIG_UNSUPPORTED', /ring_attention/));
  });

  it('reads sparse and dense layers', async () => {
    const config = await raw('qwen2_moe');
    const blocks = (change: Raw) => decoderConfig({ ...config, ...change }).layers.map(({ block }) => block.kind);
    assert.deepEqual(blocks({}), ['moe', 'dense', 'moe']);
    assert.deepEqual(blocks({ mlp_only_layers: [] }), ['moe', 'moe', 'moe']);
    assert.deepEqual(blocks({ mlp_only_layers: null, decoder_sparse_step: 2 }), ['dense', 'moe', 'dense']);
    assert.throws(() => blocks({ decoder_sparse_step: 0 }), moeError('CONFIG_INVALID', /decoder_sparse_step/));
    assert.throws(() => blocks({ mlp_only_layers: ['1'] }), moeError('CONFIG_INVALID', /mlp_only_layers/));
    // intermediate_size is read only where a layer is dense.
    assert.deepEqual(blocks({ mlp_only_layers: [], intermediate_size: null }), ['moe', 'moe', 'moe']);
    assert.throws(() => blocks({ intermediate_size: null }), moeError('CONFIG_INVALID', /intermediate_size/));
  });

  it('reads what one family alone has', async () => {
    const olmoe = await raw('olmoe');
    assert.equal(decoderConfig({ ...olmoe, clip_qkv: 2.5 }).attention.clip, 2.5);
    assert.equal(decoderConfig(olmoe).attention.clip, undefined);
    assert.equal(decoderConfig({ ...olmoe, attention_bias: true }).attention.outputBias, true);
    const qwen2 = await raw('qwen2_moe');
    assert.equal(decoderConfig({ ...qwen2, qkv_bias: undefined }).attention.inputBias, true);
    assert.equal(decoderConfig({ ...qwen2, qkv_bias: false }).attention.inputBias, false);
    const gelu = decoderConfig({ ...olmoe, hidden_act: 'gelu_pytorch_tanh' });
    assert.equal(gelu.kind, 'geglu');
    assert.equal(decoderConfig({ ...olmoe, head_dim: null }).attention.headDim, 8);
    assert.deepEqual(decoderConfig({ ...olmoe, eos_token_id: [1, 2] }).eosIds, [1, 2]);
    assert.deepEqual(decoderConfig({ ...olmoe, eos_token_id: null }).eosIds, []);
    assert.deepEqual(decoderConfig({ ...olmoe, eos_token_id: [2, 50279] }).eosIds, [2]);
  });

  it('reads merged layers and refuses impossible ones', async () => {
    const config = await raw('qwen2_moe');
    const moe = (layers: Raw) => ({
      ...config,
      moe: { version: 1, madeBy: 'node-moe 0.1.0', recipe: {}, weights: null, layers },
    });
    const groupOf = [0, 1, 0, 1, 2, 2, 2, 0];
    const { block } = decoderConfig(moe({ 2: { groups: 3, groupOf } })).layers[2] ?? {};
    assert.ok(block?.kind === 'moe');
    assert.deepEqual(block.moe.merged, { groups: 3, groupOf: Int32Array.from(groupOf) });
    assert.throws(() => decoderConfig(moe({ 1: { groups: 3, groupOf } })), moeError('CONFIG_INVALID', /layers\.1/));
    assert.throws(() => decoderConfig(moe({ 3: { groups: 3, groupOf } })), moeError('CONFIG_INVALID'));
    assert.throws(() => decoderConfig(moe({ 0: { groups: 3, groupOf: [0, 1] } })), moeError('CONFIG_INVALID'));
    assert.throws(() => decoderConfig(moe({ 0: { groups: 2, groupOf } })), moeError('CONFIG_INVALID'));
  });

  it('has the frequencies of rope in f32, scaled linearly', () => {
    const plain = ropeFrequencies({ theta: 10_000, factor: 1 }, 8);
    assert.deepEqual(plain, Float32Array.of(1, 0.1, 0.01, 0.001));
    assert.deepEqual(
      ropeFrequencies({ theta: 10_000, factor: 4 }, 8),
      plain.map((frequency) => frequency / 4),
    );
  });
});
