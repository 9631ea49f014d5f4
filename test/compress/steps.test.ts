/** Every step and method on a small model: the result opens, is finite, is as large as it says, and comes out the same twice. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { tensorBytes } from '../../lib/checkpoint/safetensors.ts';
import { type CompressResult, compress } from '../../lib/compress/compress.ts';
import type { RecipeInput } from '../../lib/compress/recipe/schema.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';
import { shortWindows } from './short-windows.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const source = join(root, 'examples/models/tiny-qwen3-moe');
const calibrate = [join(root, 'examples/text/node.calibrate.txt')];

type Steps = RecipeInput['steps'];
const group: Steps[number] = { step: 'group', groups: 8 };

/** Experts in the original, and bytes of all expert matrices of a layer there. */
const experts = 16;
const original = experts * 3 * 128 * 128 * 2;

interface Case {
  readonly steps: Steps;
  /** Of the expert matrices of all layers next to the original ones. */
  readonly share?: readonly [least: number, most: number];
  readonly recover?: 'none';
  readonly refit?: RecipeInput['refit'];
  /** Calibrated on a few tokens: each of its steps takes the gradient of the whole model. */
  readonly short?: true;
}

const half = [0.4999, 0.5001] as const;
const int4 = [0.26, 0.32] as const;

const cases: Record<string, Case> = {
  'merge by frequency': { steps: [group, { step: 'merge' }], share: half },
  'merge by frequency, as published': {
    steps: [group, { step: 'merge', align: 'first' }],
    share: half,
    recover: 'none',
  },
  'merge without alignment': { steps: [group, { step: 'merge', align: 'none' }], share: half, recover: 'none' },
  'merge aligned by activations': {
    steps: [group, { step: 'merge', align: 'activations' }],
    share: half,
    recover: 'none',
  },
  'merge uniformly': { steps: [group, { step: 'merge', method: 'uniform' }], share: half },
  'merge by least squares': { steps: [group, { step: 'merge', method: 'least-squares' }], share: half },
  'merge by least squares alone': {
    steps: [group, { step: 'merge', method: 'least-squares' }],
    share: half,
    recover: 'none',
  },
  'merge by TIES': { steps: [group, { step: 'merge', method: 'ties' }], share: half, recover: 'none' },
  'merge neurons': { steps: [group, { step: 'merge', method: 'neurons' }], share: [0.45, 0.51] },
  'merge groups of outputs': { steps: [{ ...group, method: 'hc-smoe' }, { step: 'merge' }], share: half },
  'merge groups of outputs of one budget': {
    steps: [{ ...group, method: 'hc-smoe', budget: 'model' }, { step: 'merge' }],
    share: half,
  },
  'merge groups of one count a layer': { steps: [{ ...group, budget: 'layer' }, { step: 'merge' }], share: half },
  'merge, router rows of the cores': {
    steps: [{ ...group, method: 'ream', router: 'cores' }, { step: 'merge' }],
    share: half,
  },
  'merge by REAM, as published': {
    steps: [
      { ...group, method: 'ream', sequential: true, router: 'cores' },
      { step: 'merge', align: 'ream' },
    ],
    share: half,
    recover: 'none',
  },
  'merge, router rows averaged': { steps: [{ ...group, router: 'mean' }, { step: 'merge' }], share: half },
  ...Object.fromEntries(
    (['frequency', 'seer', 'ean', 'reap', 'man', 'msan'] as const).map((method) => [
      `prune by ${method}`,
      { steps: [{ step: 'prune', method, experts: 8 }], share: half },
    ]),
  ),
  'prune by renormalized gates, as published': {
    steps: [{ step: 'prune', experts: 8, gates: 'renormalized' }],
    share: half,
    recover: 'none',
  },
  'prune the best subset': { steps: [{ step: 'prune', method: 'enumerate', experts: 14 }], share: [0.8749, 0.8751] },
  'slim with free widths': { steps: [{ step: 'slim', keep: 0.5 }], share: [0.45, 0.51] },
  'slim with widths free in a layer': {
    steps: [{ step: 'slim', keep: 0.5, widths: 'layer' }],
    share: [0.45, 0.51],
    refit: [],
  },
  'slim, routers refitted too': {
    steps: [{ step: 'slim', keep: 0.5 }],
    share: [0.45, 0.51],
    refit: ['gate-up', 'router'],
  },
  'slim with equal widths': { steps: [{ step: 'slim', keep: 0.5, widths: 'equal' }], share: half, refit: [] },
  'factorize by SVD': { steps: [{ step: 'factorize', method: 'svd', rank: 32 }], recover: 'none' },
  'factorize whitened, with kept rows': { steps: [{ step: 'factorize', method: 'whitened', rank: 24, rows: 0.1 }] },
  'factorize jointly, with an n:m part': { steps: [{ step: 'factorize', rank: 8, sparse: '2:4' }] },
  'factorize as LoSparse, as published': {
    steps: [
      group,
      { step: 'merge', align: 'first' },
      { step: 'factorize', method: 'losparse', rank: 32, rows: 0.1, steps: 16 },
    ],
    share: [0.298, 0.305],
    recover: 'none',
  },
  "factorize as LoSparse, by the model's loss": {
    steps: [
      group,
      { step: 'merge', align: 'first' },
      { step: 'factorize', method: 'losparse', importance: 'model', rank: 32, rows: 0.1, steps: 16 },
    ],
    share: [0.298, 0.305],
    short: true,
    recover: 'none',
  },
  "factorize pruned experts as LoSparse, by the model's loss, refitted": {
    steps: [
      { step: 'prune', experts: 8 },
      { step: 'factorize', method: 'losparse', importance: 'model', rank: 32, rows: 0.1, steps: 16 },
    ],
    share: [0.298, 0.305],
    short: true,
  },
  'factorize as LoSparse, refitted': {
    steps: [group, { step: 'merge' }, { step: 'factorize', method: 'losparse', rank: 16, rows: 0.1, steps: 16 }],
    share: [0.17, 0.18],
  },
  'factorize as deltas': { steps: [group, { step: 'factorize', method: 'delta', rank: 8 }] },
  'reconstruct by gradients': {
    steps: [
      { step: 'slim', keep: 0.5 },
      { step: 'reconstruct', steps: 4 },
      { step: 'quantize', method: 'gptq', weights: 'int4:128' },
    ],
    share: [0.12, 0.15],
  },
  'sparsify by magnitude': {
    steps: [{ step: 'sparsify', method: 'magnitude' }],
    share: [0.5624, 0.5626],
    recover: 'none',
  },
  'sparsify by Wanda': { steps: [{ step: 'sparsify', method: 'wanda' }], share: [0.5624, 0.5626] },
  'sparsify by SparseGPT, neurons in another order': {
    steps: [{ step: 'sparsify', permute: true }],
    share: [0.5624, 0.5626],
  },
  'quantize to the nearest': { steps: [{ step: 'quantize', weights: 'int4' }], share: int4 },
  'quantize by GPTQ': {
    steps: [{ step: 'quantize', method: 'gptq', weights: 'int4:128', actOrder: true }],
    share: int4,
  },
  'quantize by AWQ': { steps: [{ step: 'quantize', method: 'awq', weights: 'int4:128' }], share: int4 },
  'quantize dual-grained': { steps: [{ step: 'quantize', method: 'dual', weights: 'int4:64:dual' }], share: int4 },
  'quantize within a budget': {
    steps: [{ step: 'quantize', weights: 'int4:128', alternatives: ['int4:32', 'int8'], budget: 0.4 }],
    share: [0.35, 0.4],
  },
  'quantize a layer otherwise': {
    steps: [{ step: 'quantize', weights: 'int4:128', down: 'int8', layers: { 0: { weights: 'bf16' } } }],
  },
  'merge, factorize, quantize': {
    steps: [
      group,
      { step: 'merge' },
      { step: 'factorize', rank: 32, rows: 0.1 },
      { step: 'quantize', weights: 'int8' },
    ],
  },
};

const norm = (values: Float32Array): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));

describe('steps of a recipe', () => {
  let folder = '';
  let device: Device;
  let reference: Device;
  let few = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-steps-'));
    device = await openDevice('cpu', { threads: 2 });
    reference = await openDevice('reference');
    few = await shortWindows(join(folder, 'few.safetensors'), 60);
  });
  after(async () => {
    device.dispose();
    reference.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  const run = (name: string, { steps, recover, refit, short }: Case): Promise<CompressResult> =>
    compress(source, {
      out: join(folder, name),
      recipe: { steps, ...(recover && { recover }), ...(refit && { refit }) },
      calibrate: short ? [few] : calibrate,
      calibrationTokens: 512,
      device,
      force: true,
    });

  const hashes = async (name: string): Promise<string[]> => {
    const files = (await readdir(join(folder, name))).sort();
    return Promise.all(
      files.map(async (file) => {
        const bytes = await readFile(join(folder, name, file));
        return `${file} ${createHash('sha256').update(bytes).digest('hex')}`;
      }),
    );
  };

  /** Bytes of the stored expert tensors of a layer. */
  const expertBytes = (checkpoint: Checkpoint, layer: number): number =>
    [...checkpoint.tensors]
      .filter(([name]) => name.includes(`layers.${layer}.mlp.experts.`))
      .reduce((sum, [, { dtype, shape }]) => sum + (tensorBytes(dtype, shape) as number), 0);

  const ids = Array.from({ length: 24 }, (_, at) => (at * 7 + 3) % 60);
  const logits = async (name: string, on: Device): Promise<Float32Array> => {
    await using model = await Model.open(join(folder, name), { device: on });
    return (await model.logits(ids)).data;
  };

  for (const [title, given] of Object.entries(cases)) {
    it(title, async () => {
      const result = await run('one', given);
      await using checkpoint = await Checkpoint.open(join(folder, 'one'));
      for (const { layer, bytes } of result.layers) assert.equal(expertBytes(checkpoint, layer), bytes);
      const share = result.layers.reduce((sum, { bytes }) => sum + bytes, 0) / (original * result.layers.length);
      const [least, most] = given.share ?? [0, 1];
      assert.ok(share >= least && share <= most, `${share} of the original bytes`);

      const [own, expected] = [await logits('one', device), await logits('one', reference)];
      assert.ok(own.every(Number.isFinite) && expected.every(Number.isFinite));
      // cpu rounds the inputs of integer weights, which may send a token to another expert.
      const apart = own.map((value, at) => value - (expected[at] as number));
      assert.ok(norm(apart) < 0.2 * norm(expected), `${norm(apart)} apart`);

      await run('two', given);
      assert.deepEqual(await hashes('two'), await hashes('one'));
    }).timeout(120_000);
  }

  for (const [title, better, worse] of [
    [
      'least squares miss less than the mean',
      [group, { step: 'merge', method: 'least-squares' }],
      [group, { step: 'merge' }],
    ],
    [
      'neurons in the order of their activations miss less than in their own',
      [group, { step: 'merge', align: 'activations' }],
      [group, { step: 'merge', align: 'none' }],
    ],
    [
      'the best subset misses less than the most salient experts',
      [{ step: 'prune', method: 'enumerate', experts: 12 }],
      [{ step: 'prune', method: 'reap', experts: 12 }],
    ],
    [
      'GPTQ misses less than the nearest codes',
      [{ step: 'quantize', method: 'gptq', weights: 'int4:128' }],
      [{ step: 'quantize', weights: 'int4:128' }],
    ],
    [
      'searched dual-grained scales miss less than the nearest codes',
      [{ step: 'quantize', method: 'dual', weights: 'int4:64:dual' }],
      [{ step: 'quantize', weights: 'int4:64:dual' }],
    ],
    [
      'scaled neurons miss less than plain ones',
      [{ step: 'quantize', method: 'awq', weights: 'bf16', down: 'int4:128' }],
      [{ step: 'quantize', weights: 'bf16', down: 'int4:128' }],
    ],
    [
      'a budget buys more than the smallest format',
      [{ step: 'quantize', weights: 'int4:128:symmetric', alternatives: ['int4:32', 'int8'], budget: 0.36 }],
      [{ step: 'quantize', weights: 'int4:128:symmetric' }],
    ],
  ] as const) {
    it(title, async () => {
      const errors: number[] = [];
      for (const steps of [better, worse]) {
        const { layers } = await run('error', { steps: steps as unknown as Steps, recover: 'none' });
        errors.push(layers.reduce((sum, { error }) => sum + error, 0));
      }
      assert.ok((errors[0] as number) < (errors[1] as number), `${errors[0]} and ${errors[1]}`);
    }).timeout(120_000);
  }

  it('are refused where they cannot be', async () => {
    for (const [steps, argument] of [
      [[{ step: 'merge' }], 'merge'],
      [[{ step: 'prune', method: 'enumerate', experts: 1 }], 'experts'],
      [[{ step: 'quantize', method: 'dual', weights: 'int4' }], 'weights'],
      [[{ step: 'quantize', weights: 'int8', budget: 0.1 }], 'budget'],
      [[{ ...group, groups: 17, budget: 'layer' }, { step: 'merge' }], 'recipe/steps/0/groups'],
    ] as const) {
      await assert.rejects(run('refused', { steps: steps as unknown as Steps }), { code: 'RECIPE_INVALID', argument });
    }
  });
});
