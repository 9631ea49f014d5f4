/** Folders that nobody checked: damaged configs, headers and tensors give a typed error, at once and before memory is asked for. */
import { strict as assert } from 'node:assert';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { SafetensorsWriter } from '../../lib/checkpoint/writer.ts';
import { Checkpoint, type Device, Model, MoeError, openDevice, type SafetensorsDtype } from '../../lib/index.ts';
import { decoderConfig } from '../../lib/model/family.ts';
import { goldenFolder, moeError, tinyModel, withCopy } from './support.ts';

type Raw = Record<string, unknown>;

const families = ['mixtral', 'qwen2_moe', 'qwen3_moe', 'olmoe'];
const absent = Symbol('absent');
const strange: readonly unknown[] = [
  absent,
  null,
  true,
  false,
  0,
  -0,
  -1,
  0.5,
  1,
  3,
  65_537,
  2 ** 31,
  2 ** 53,
  1e300,
  -1e300,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  '',
  '8',
  'sliding_attention',
  '__proto__',
  [],
  [[]],
  [null],
  [-1],
  [1e12],
  ['full_attention'],
  {},
  { __proto__: null },
  { rope_type: 'default', rope_theta: Number.NaN },
  { 0: { groups: 1 } },
];

function changed(config: Raw, key: string, value: unknown): Raw {
  const { [key]: _, ...rest } = config;
  return value === absent ? rest : { ...rest, [key]: value };
}

async function raw(family: string): Promise<Raw> {
  return JSON.parse(await readFile(join(goldenFolder(family), 'config.json'), 'utf8'));
}

/** Reads it or throws a CONFIG error; anything else fails. */
function read(config: Raw): void {
  try {
    const { layers, hidden, vocabulary, attention } = decoderConfig(config);
    for (const size of [layers.length, hidden, vocabulary, attention.headDim]) assert.ok(size >= 1 && size <= 1e7);
  } catch (error) {
    assert.ok(error instanceof MoeError && error.code.startsWith('CONFIG_'), String(error));
  }
}

describe('malformed folders', () => {
  for (const family of families) {
    it(`${family}: any value under any key of config.json is read or refused`, async () => {
      const config = await raw(family);
      const keys = [...Object.keys(config), 'rope_scaling', 'rope_theta', 'layer_types', 'mlp_only_layers', 'moe'];
      keys.push('decoder_sparse_step', 'max_window_layers', 'clip_qkv', 'partial_rotary_factor', 'sliding_window');
      const start = performance.now();
      for (const key of keys) for (const value of strange) read(changed(config, key, value));
      assert.ok(performance.now() - start < 5000, 'at once');
    });

    it(`${family}: several damaged keys at once are read or refused`, async () => {
      const config = await raw(family);
      const damage = fc.array(fc.tuple(fc.constantFrom(...Object.keys(config)), fc.constantFrom(...strange)), {
        minLength: 2,
        maxLength: 6,
      });
      const anything = fc.tuple(fc.constantFrom(...Object.keys(config)), fc.jsonValue());
      fc.assert(
        fc.property(damage, (all) => read(all.reduce((from, [key, value]) => changed(from, key, value), config))),
      );
      fc.assert(fc.property(anything, ([key, value]) => read(changed(config, key, value))));
    });
  }

  describe('with a device', () => {
    let device: Device;
    before(async () => {
      device = await openDevice('cpu', { threads: 1 });
    });
    after(() => device.dispose());

    it('a config that asks for more than the files have is refused before anything is allocated', async () => {
      const greedy: Raw[] = [
        { num_hidden_layers: 10_000 },
        { vocab_size: 10_000_000 },
        { hidden_size: 1_000_000 },
        { num_experts: 65_536, num_local_experts: 65_536 },
        { moe_intermediate_size: 1_000_000 },
        { num_hidden_layers: 10_000, num_experts: 65_536, num_local_experts: 65_536, hidden_size: 999_999 },
        { num_hidden_layers: 1 },
        { num_attention_heads: 1 },
        { tie_word_embeddings: true, vocab_size: 17 },
      ];
      for (const change of greedy) {
        const start = performance.now();
        await withCopy(
          tinyModel,
          (config) => void Object.assign(config, change),
          async (copy) => {
            await assert.rejects(Model.open(copy, { device }), (error) => {
              assert.ok(error instanceof MoeError, String(error));
              const codes = [
                'CHECKPOINT_TENSOR_MISSING',
                'CHECKPOINT_TENSOR_UNKNOWN',
                'SHAPE_MISMATCH',
                'CONFIG_INVALID',
              ];
              assert.ok(codes.includes(error.code), error.message);
              assert.ok(error.message.length < 10_000, 'a message that can be read');
              return true;
            });
          },
        );
        assert.ok(performance.now() - start < 2000, JSON.stringify(change));
      }
      assert.equal(device.memory().peak, 0);
    });

    it('a context of a thousand million tokens costs nothing until it is used', () =>
      withCopy(
        tinyModel,
        (config) => void Object.assign(config, { max_position_embeddings: 1_000_000_000 }),
        async (copy) => {
          const model = await Model.open(copy, { device });
          const tokens: number[] = [];
          for await (const { id } of model.generate('interface ', { maxTokens: 3 })) tokens.push(id);
          assert.equal(tokens.length, 3);
          assert.ok(model.memory().total < 64e6, JSON.stringify(model.memory()));
          await model.dispose();
        },
      ));

    it('a tensor of another shape or dtype is refused by its name', async () => {
      const shapes: [name: string, change: (shape: number[]) => number[]][] = [
        ['model.norm.weight', (shape) => [1, ...shape]],
        ['model.layers.0.self_attn.k_proj.weight', (shape) => shape.toReversed()],
        ['model.layers.1.mlp.gate.weight', ([a = 1, b = 1]) => [a * b]],
        ['model.layers.2.mlp.experts.3.down_proj.weight', ([a = 1, b = 1]) => [a / 2, b * 2]],
        ['model.embed_tokens.weight', ([a = 1, b = 1]) => [a, b, 1]],
      ];
      for (const [name, change] of shapes) {
        await withTensor(
          name,
          (dtype, shape) => ({ dtype, shape: change(shape) }),
          async (copy) => {
            await assert.rejects(Model.open(copy, { device }), moeError('SHAPE_MISMATCH', new RegExp(name)));
          },
        );
      }
      for (const dtype of ['I16', 'U16'] as const) {
        for (const name of ['model.norm.weight', 'model.layers.0.mlp.experts.0.up_proj.weight']) {
          await withTensor(
            name,
            (_, shape) => ({ dtype, shape }),
            async (copy) => {
              await assert.rejects(Model.open(copy, { device }), moeError('DTYPE_MISMATCH', new RegExp(name)));
            },
          );
        }
      }
      assert.equal(device.memory().held, 0);
    });

    it('flipped bytes in the header of model.safetensors open or are refused, never a crash', async () => {
      await withCopy(
        tinyModel,
        () => undefined,
        async (copy) => {
          const path = join(copy, 'model.safetensors');
          const head = (await readFile(path)).subarray(0, 4096);
          const flips = fc.array(
            fc.tuple(fc.oneof(fc.nat(7), fc.nat(head.length - 1)), fc.integer({ min: 1, max: 255 })),
            {
              minLength: 1,
              maxLength: 4,
            },
          );
          await fc.assert(
            fc.asyncProperty(flips, async (all) => {
              const damaged = Uint8Array.from(head);
              for (const [at, bits] of all) damaged[at] = (damaged[at] as number) ^ bits;
              const file = await open(path, 'r+');
              await file.write(damaged, 0, damaged.length, 0);
              await file.close();
              const model = await Model.open(copy, { device }).catch((error: unknown) => {
                assert.ok(error instanceof MoeError && error.code !== 'INTERNAL', String(error));
              });
              await model?.dispose();
            }),
            { numRuns: 150 },
          );
        },
      );
      assert.equal(device.memory().held, 0);
    });
  });
});

/** A copy of the tiny model whose tensor `name` is declared otherwise, with the same bytes. */
async function withTensor(
  name: string,
  declare: (dtype: SafetensorsDtype, shape: number[]) => { dtype: SafetensorsDtype; shape: number[] },
  body: (copy: string) => Promise<void>,
): Promise<void> {
  await withCopy(
    tinyModel,
    () => undefined,
    async (copy) => {
      const source = await Checkpoint.open(tinyModel);
      const entries = [...source.tensors.values()].map((entry) =>
        entry.name === name
          ? { name, ...declare(entry.dtype, [...entry.shape]) }
          : { name: entry.name, dtype: entry.dtype, shape: entry.shape },
      );
      const writer = await SafetensorsWriter.create(join(copy, 'model.safetensors'), entries);
      for (const entry of entries) await writer.write(entry.name, await source.read(entry.name));
      await writer.finish();
      source.close();
      await body(copy);
    },
  );
}
