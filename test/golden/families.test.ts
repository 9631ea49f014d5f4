/** Small random models of each family against the numbers of Hugging Face transformers (test/golden/families/<family>/<case>). */
import { strict as assert } from 'node:assert';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';
import { MoeLayer } from '../../lib/model/moe-layer.ts';
import type { ModelWeights } from '../../lib/model/weights.ts';
import type { Tensor } from '../../lib/tensor/tensor.ts';
import { onlyDevice } from '../only-device.ts';
import { denseGates, type GoldenCase, listCases, readCase, relativeError } from './case.ts';

const cases = listCases();
const blocks = cases.filter(({ kind }) => kind === 'block');
const models = cases.filter(({ kind }) => kind === 'model');

interface Setting {
  readonly name: string;
  readonly open: () => Promise<Device>;
  readonly weights: ModelWeights | undefined;
  /** Of a case on this device. */
  readonly tolerance: (golden: GoldenCase) => number;
}

const standard: readonly Setting[] = [
  {
    name: 'reference',
    open: () => openDevice('reference'),
    weights: undefined,
    tolerance: (golden) => golden.tolerance,
  },
  {
    name: 'reference in foreign mode',
    open: () => openDevice('reference', { foreign: true }),
    weights: undefined,
    tolerance: (golden) => golden.tolerance,
  },
  {
    name: 'cpu, f32 weights',
    open: () => openDevice('cpu'),
    weights: { format: 'f32', attention: 'f32' },
    tolerance: () => 1e-4,
  },
];

const settings: readonly Setting[] = onlyDevice
  ? [{ name: onlyDevice, open: () => openDevice(onlyDevice), weights: undefined, tolerance: () => 1e-4 }]
  : standard;

for (const { name, open, weights, tolerance } of settings) {
  describe(`golden families on ${name}`, () => {
    let device: Device;
    before(async () => {
      device = await open();
    });
    after(() => device.dispose());

    for (const { family, name: which } of blocks) {
      it(`${family}/${which}`, async () => {
        const golden = await readCase(family, which);
        await using checkpoint = await Checkpoint.open(golden.folder);
        await using layer = await MoeLayer.open(checkpoint, golden.layer, { device, weights });
        const { experts } = layer.spec.router;
        const trace = await layer.trace(golden.floats('x'));
        const tokens = golden.shape('x')[0] as number;
        const limit = tolerance(golden);
        near('y', trace.y, golden.floats('y'), limit);
        near('router logits', trace.routerLogits, golden.floats('router_logits'), limit);
        near('gates', denseGates(trace.ids, trace.gates, tokens, experts), golden.floats('gates'), limit);
        near('forward', await layer.forward(golden.floats('x')), golden.floats('y'), limit);
      });
    }

    for (const { family, name: which } of models) {
      it(`${family}/${which}`, async () => {
        const golden = await readCase(family, which);
        await using model = await Model.open(golden.folder, { device, weights });
        const limit = tolerance(golden);
        const ids = golden.integers('input_ids');
        const { data, shape } = await model.logits(ids);
        assert.deepEqual(shape, [ids.length, model.config.vocabulary]);
        near('logits', data, golden.floats('logits'), limit);
        await compareLayers(model, golden, ids, limit);
        if (golden.has('gen.ids')) await compareGreedy(model, golden, ids, limit);
        if (golden.has('batch.input_ids')) await compareBatch(model, golden, limit);
      });
    }
  });
}

function near(what: string, got: Float32Array, expected: Float32Array, limit: number): void {
  const error = relativeError(got, expected);
  assert.ok(error <= limit, `${what}: relative maximum error ${error}, limit ${limit}`);
}

/** Input of every MoE block, router logits, choices and gates. */
async function compareLayers(model: Model, golden: GoldenCase, ids: Int32Array, limit: number): Promise<void> {
  const outputs = new Map<string, Float32Array | Int32Array>();
  const onOutputs = async (tensors: Readonly<Record<string, Tensor>>): Promise<void> => {
    for (const [name, tensor] of Object.entries(tensors)) {
      outputs.set(name, (await tensor.read()) as Float32Array | Int32Array);
    }
  };
  const layers: number[] = [];
  await model.observe(
    [ids],
    (graph, { layer, input, routerLogits, routing }) => {
      layers.push(layer);
      graph.output(`moe_in.layer.${layer}`, input).output(`router_logits.layer.${layer}`, routerLogits);
      graph.output(`ids.${layer}`, routing.ids).output(`gates.${layer}`, routing.gates);
    },
    { onOutputs },
  );
  for (const layer of layers) {
    for (const name of [`moe_in.layer.${layer}`, `router_logits.layer.${layer}`]) {
      near(name, outputs.get(name) as Float32Array, golden.floats(name), limit);
    }
    const experts = golden.shape(`router_logits.layer.${layer}`)[1] as number;
    const dense = (choices: Int32Array, gates: Float32Array) => denseGates(choices, gates, ids.length, experts);
    const got = dense(outputs.get(`ids.${layer}`) as Int32Array, outputs.get(`gates.${layer}`) as Float32Array);
    const expected = dense(golden.integers(`topk_ids.layer.${layer}`), golden.floats(`topk_gates.layer.${layer}`));
    near(`gates of layer ${layer}`, got, expected, limit);
    assert.deepEqual(got.map(Math.sign), expected.map(Math.sign), `choices of layer ${layer}`);
  }
}

async function compareGreedy(model: Model, golden: GoldenCase, ids: Int32Array, limit: number): Promise<void> {
  const expected = golden.integers('gen.ids');
  const got: number[] = [];
  for await (const { id } of model.generate(ids, { maxTokens: expected.length, stopAtEos: false })) got.push(id);
  assert.deepEqual(got, Array.from(expected));
  const { data } = await model.logits([...ids, ...expected.subarray(0, -1)]);
  const rows = data.subarray((ids.length - 1) * model.config.vocabulary);
  near('logits of generated tokens', rows, golden.floats('gen.logits'), limit);
}

/** Rows of different lengths; the padding of the case is left out. */
async function compareBatch(model: Model, golden: GoldenCase, limit: number): Promise<void> {
  const [rows = 0, width = 0] = golden.shape('batch.input_ids');
  const { vocabulary } = model.config;
  const logits = golden.floats('batch.logits');
  await Promise.all(
    Array.from({ length: rows }, async (_, row) => {
      const mask = golden.integers('batch.attention_mask').subarray(row * width, (row + 1) * width);
      const length = mask.reduce((sum, real) => sum + real, 0);
      const { data } = await model.logits(
        golden.integers('batch.input_ids').subarray(row * width, row * width + length),
      );
      const begin = row * width * vocabulary;
      near(`logits of row ${row}`, data, logits.subarray(begin, begin + length * vocabulary), limit);
    }),
  );
}
