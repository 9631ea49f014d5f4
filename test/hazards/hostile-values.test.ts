/** Values that no type allows, at every argument of the public functions: a MoeError each, never a raw TypeError or a crash. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  bf16ToF32,
  Checkpoint,
  compress,
  type Device,
  dtypeBytes,
  expertBank,
  explainDevice,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  formatBytes,
  formatName,
  Graph,
  limitShare,
  Model,
  MoeError,
  MoeLayer,
  openDevice,
  type Program,
  parseWeightFormat,
  profileOf,
  scope,
  Tensor,
  type Value,
  Weight,
} from '../../lib/index.ts';
import { linearProgram, normal } from '../facade/support.ts';
import { tinyModel } from '../model/support.ts';

/** What the getters and traps below throw: the caller's own error may come through. */
const own = new Error('of the caller');
const fail = (): never => {
  throw own;
};

const values: Readonly<Record<string, unknown>> = {
  null: null,
  true: true,
  'a symbol': Symbol('hostile'),
  'a bigint': 10n,
  NaN: Number.NaN,
  'minus one': -1,
  half: 0.5,
  infinity: Number.POSITIVE_INFINITY,
  'a huge number': 1e300,
  'an unsafe integer': 2 ** 53,
  'an empty string': '',
  'a NUL': '\0',
  __proto__: '__proto__',
  constructor: 'constructor',
  'a lone surrogate': '\ud800',
  'an empty list': [],
  'a nested list': [[1], [2]],
  'a list with holes': new Array(3),
  'a list of symbols': [Symbol('a')],
  'an empty object': {},
  'no prototype': Object.create(null),
  'a function': () => 1,
  'a throwing getter': Object.defineProperties(
    {},
    Object.fromEntries(
      ['length', 'format', 'dtype', 'signal', 'into', 'heads', 'x', 'spec'].map((key) => [
        key,
        { get: fail, enumerable: true },
      ]),
    ),
  ),
  'a throwing proxy': new Proxy({}, { get: fail, has: fail, ownKeys: fail, getPrototypeOf: fail }),
  'a proxy of an array': new Proxy(new Float32Array(64), {}),
  'an array in name': Object.create(Float32Array.prototype),
  'a tensor in name': Object.create(Tensor.prototype),
  'a weight in name': Object.create(Weight.prototype),
  'a DataView': new DataView(new ArrayBuffer(256)),
  'an ArrayBuffer': new ArrayBuffer(256),
  'a Date': new Date(Number.NaN),
  'a text that throws': { toString: fail, [Symbol.toPrimitive]: fail },
  'a signal in name': { aborted: true },
};

type Call = (value: never) => unknown;

describe('hostile values', () => {
  let device: Device;
  let program: Program;
  let weight: Weight;
  let tensor: Tensor<'f32'>;
  let checkpoint: Checkpoint;
  let layer: MoeLayer;
  let model: Model;

  before(async () => {
    device = await openDevice('cpu', { threads: 1 });
    ({ program, weight } = await linearProgram(device));
    tensor = await Tensor.zeros(device, 'f32', [1, 64]);
    checkpoint = await Checkpoint.open(tinyModel);
    layer = await MoeLayer.open(checkpoint, 0, { device });
    model = await Model.open(tinyModel, { device });
  });
  after(async () => {
    rmSync(outside, { recursive: true, force: true });
    await model.dispose();
    layer.dispose();
    checkpoint.close();
    device.dispose();
  });

  const outside = mkdtempSync(join(tmpdir(), 'node-moe-hostile-'));
  /** A compression that ends before the work begins: the calibration text is not there. */
  const compressing = (change: Record<string, unknown>): unknown =>
    compress(tinyModel, { out: join(outside, 'out'), groups: 8, calibrate: [join(outside, 'none')], ...change });

  /** A graph with x [tokens, 64], ids [tokens] and a state, for one call. */
  const inGraph = (body: (g: Graph, x: Value, ids: Value) => unknown): unknown => {
    const g = new Graph(device);
    return body(g, g.input('x', 'f32', ['tokens', 64]), g.input('ids', 'i32', ['tokens']));
  };
  const routed = (g: Graph, x: Value) => g.route(x, { experts: 64, topK: 2 });
  const drain = async (tokens: AsyncIterable<unknown>): Promise<void> => {
    for await (const _ of tokens);
  };
  const spec = { in: 8, out: 8, format: { format: 'f32' } } as const;
  const { format } = spec;
  const lowRank = { a: normal(8), b: normal(8) };
  const rows = { values: normal(8), index: Int32Array.of(1) };
  const sparse = { values: normal(16), index: new Uint8Array(16) };
  const places = (g: Graph, x: Value) => {
    const cache = ['pages', 16, 64] as const;
    return {
      q: x,
      k: x,
      v: x,
      positions: g.input('positions', 'i32', ['tokens']),
      sequence: g.input('sequence', 'i32', ['tokens']),
      lengths: g.input('lengths', 'i32', ['sequences']),
      pages: g.input('pages', 'i32', ['table']),
      kCache: g.state('k', 'f32', cache),
      vCache: g.state('v', 'f32', cache),
      heads: 1,
      kvHeads: 1,
    };
  };

  const calls: Readonly<Record<string, Call>> = {
    'openDevice name': (value) => openDevice(value),
    'openDevice options': (value) => openDevice('cpu', value),
    'openDevice threads': (value) => openDevice('cpu', { threads: value }),
    'openDevice isa': (value) => openDevice('cpu', { isa: value }),
    'openDevice memoryLimit': (value) => openDevice('cpu', { memoryLimit: value }),
    'openDevice index': (value) => openDevice('cpu', { index: value }),
    'openDevice foreign': (value) => openDevice('reference', { foreign: value }),
    explainDevice: (value) => explainDevice(value),
    dtypeBytes: (value) => dtypeBytes(value),
    bf16ToF32: (value) => bf16ToF32(value),
    f16ToF32: (value) => f16ToF32(value),
    f32ToBf16: (value) => f32ToBf16(value),
    f32ToF16: (value) => f32ToF16(value),
    scope: (value) => scope(value),
    profileOf: (value) => profileOf(value),
    limitShare: (value) => limitShare(value, value),
    parseWeightFormat: (value) => parseWeightFormat(value),
    formatName: (value) => formatName(value),
    formatBytes: (value) => formatBytes(value, 8, 8),
    'formatBytes format': (value) => formatBytes({ format: value }, 8, 8),
    'formatBytes groupSize': (value) => formatBytes({ format: 'int4', groupSize: value }, 8, 8),
    'formatBytes rows': (value) => formatBytes({ format: 'int4' }, value, 8),
    'formatBytes columns': (value) => formatBytes({ format: 'int4' }, 8, value),
    'Tensor.empty device': (value) => Tensor.empty(value, 'f32', [1]),
    'Tensor.empty dtype': (value) => Tensor.empty(device, value, [1]),
    'Tensor.empty shape': (value) => Tensor.empty(device, 'f32', value).dispose(),
    'Tensor.empty dimension': (value) => Tensor.empty(device, 'f32', [value]).dispose(),
    'Tensor.zeros shape': (value) => Tensor.zeros(device, 'f32', value),
    'Tensor.from data': (value) => Tensor.from(device, value, { dtype: 'f32', shape: [64] }),
    'Tensor.from device': (value) => Tensor.from(value, normal(1), { dtype: 'f32', shape: [1] }),
    'Tensor.from options': (value) => Tensor.from(device, normal(64), value),
    'Tensor.write data': (value) => tensor.write(value),
    'Tensor.write options': (value) => tensor.write(normal(1), value),
    'Tensor.write offset': (value) => tensor.write(normal(1), { offset: value }),
    'Tensor.read into': (value) => tensor.read(value),
    'Tensor.readSync into': (value) => tensor.readSync(value),
    'Weight.from device': (value) => Weight.from(value, spec, normal(64)),
    'Weight.from spec': (value) => Weight.from(device, value, normal(64)),
    'Weight.from in': (value) => Weight.from(device, { ...spec, in: value }, normal(64)),
    'Weight.from out': (value) => Weight.from(device, { ...spec, out: value }, normal(64)),
    'Weight.from slots': (value) => Weight.from(device, { ...spec, slots: value }, normal(64)),
    'Weight.from gated': (value) => Weight.from(device, { ...spec, gated: value }, normal(64)),
    'Weight.from inOf': (value) => Weight.from(device, { ...spec, inOf: value }, normal(64)),
    'Weight.from format': (value) => Weight.from(device, { ...spec, format: value }, normal(64)),
    'Weight.from baseOf': (value) => Weight.from(device, { ...spec, baseOf: value }, normal(64)),
    'Weight.from lowRank': (value) => Weight.from(device, { ...spec, lowRank: value }, normal(64)),
    'Weight.from rank': (value) =>
      Weight.from(device, { ...spec, lowRank: { rank: value } }, { base: normal(64), lowRank }),
    'Weight.from lowRank values': (value) =>
      Weight.from(device, { in: 8, out: 8, lowRank: { rank: 1 } }, { lowRank: value }),
    'Weight.from rows': (value) => Weight.from(device, { ...spec, rows: value }, normal(64)),
    'Weight.from count': (value) => Weight.from(device, { in: 8, out: 8, rows: { format, count: value } }, { rows }),
    'Weight.from rows index': (value) =>
      Weight.from(device, { in: 8, out: 8, rows: { format, count: 1 } }, { rows: { ...rows, index: value } }),
    'Weight.from sparse': (value) => Weight.from(device, { ...spec, sparse: value }, normal(64)),
    'Weight.from n': (value) => Weight.from(device, { in: 8, out: 8, sparse: { format, n: value, m: 4 } }, { sparse }),
    'Weight.from m': (value) => Weight.from(device, { in: 8, out: 8, sparse: { format, n: 1, m: value } }, { sparse }),
    'Weight.from dual': (value) =>
      Weight.from(device, { ...spec, format: { format: 'int4', dual: value } }, normal(64)),
    'Weight.from values': (value) => Weight.from(device, spec, value),
    'Weight.from bias': (value) => Weight.from(device, spec, normal(64), value),
    'Weight.load pieces': (value) => Weight.load(device, spec, value),
    'Weight.load piece': (value) => Weight.load(device, spec, [value]),
    'Weight.load options': (value) => Weight.load(device, spec, [], value),
    'Weight.load signal': (value) => Weight.load(device, spec, [], { signal: value }),
    expertBank: (value) => expertBank(value),
    'expertBank kind': (value) => expertBank({ kind: value, up: weight, down: weight }),
    'expertBank up': (value) => expertBank({ kind: 'relu', up: value, down: weight }),
    'expertBank groupOf': (value) => expertBank({ kind: 'relu', up: weight, down: weight, groupOf: value }),
    Graph: (value) => new Graph(value),
    'input name': (value) => new Graph(device).input(value, 'f32', [1]),
    'input dtype': (value) => new Graph(device).input('x', value, [1]),
    'input shape': (value) => new Graph(device).input('x', 'f32', value),
    'input dimension': (value) => new Graph(device).input('x', 'f32', [value, 1]),
    'input factor': (value) => new Graph(device).input('x', 'f32', [{ factor: value, symbol: 'tokens' }, 1]),
    'input symbol': (value) => new Graph(device).input('x', 'f32', [{ factor: 1, symbol: value }, 1]),
    constant: (value) => new Graph(device).constant(value),
    'output name': (value) => inGraph((g, x) => g.output(value, x)),
    'output value': (value) => inGraph((g) => g.output('y', value)),
    'compile sizes': (value) => inGraph((g, x) => g.output('y', g.add(x, x)).compile(value)),
    'compile size': (value) => inGraph((g, x) => g.output('y', g.add(x, x)).compile({ tokens: value })),
    'embed ids': (value) => inGraph((g) => g.embed(value, tensor)),
    'embed table': (value) => inGraph((g, _, ids) => g.embed(ids, value)),
    'embed options': (value) => inGraph((g, _, ids) => g.embed(ids, tensor, value)),
    'embed scale': (value) => inGraph((g, _, ids) => g.embed(ids, tensor, { scale: value })),
    'norm x': (value) => inGraph((g) => g.norm(value, undefined)),
    'norm weight': (value) => inGraph((g, x) => g.norm(x, value)),
    'norm options': (value) => inGraph((g, x) => g.norm(x, undefined, value)),
    'norm epsilon': (value) => inGraph((g, x) => g.norm(x, undefined, { epsilon: value })),
    'norm width': (value) => inGraph((g, x) => g.norm(x, undefined, { width: value })),
    'addNorm residual': (value) => inGraph((g, x) => g.addNorm(x, value, undefined)),
    'linear x': (value) => inGraph((g) => g.linear(value, weight)),
    'linear weight': (value) => inGraph((g, x) => g.linear(x, value)),
    'linear options': (value) => inGraph((g, x) => g.linear(x, weight, value)),
    'linear activation': (value) => inGraph((g, x) => g.linear(x, weight, { activation: value })),
    'linear routing': (value) => inGraph((g, x) => g.linear(x, weight, { routing: value })),
    'rotate options': (value) => inGraph((g, x, ids) => g.rotate(x, ids, tensor, value)),
    'rotate heads': (value) => inGraph((g, x, ids) => g.rotate(x, ids, tensor, { heads: value })),
    'attention options': (value) => inGraph((g) => g.attention(value)),
    'attention heads': (value) => inGraph((g, x) => g.attention({ ...places(g, x), heads: value })),
    'attention window': (value) => inGraph((g, x) => g.attention({ ...places(g, x), window: value })),
    'attention scale': (value) => inGraph((g, x) => g.attention({ ...places(g, x), scale: value })),
    'attention q': (value) => inGraph((g, x) => g.attention({ ...places(g, x), q: value })),
    'map function': (value) => inGraph((g, x) => g.map(value, x)),
    'map options': (value) => inGraph((g, x) => g.map('scale', x, undefined, value)),
    'map alpha': (value) => inGraph((g, x) => g.map('scale', x, undefined, { alpha: value })),
    'route options': (value) => inGraph((g, x) => g.route(x, value)),
    'route experts': (value) => inGraph((g, x) => g.route(x, { experts: value, topK: 1 })),
    'route topK': (value) => inGraph((g, x) => g.route(x, { experts: 64, topK: value })),
    'route groupOf': (value) => inGraph((g, x) => g.route(x, { experts: 64, topK: 1, groupOf: value })),
    'route slots': (value) => inGraph((g, x) => g.route(x, { experts: 64, topK: 1, slots: value })),
    'regroup routing': (value) => inGraph((g) => g.regroup(value, undefined, 1)),
    'regroup options': (value) => inGraph((g, x) => g.regroup(routed(g, x), undefined, 64, value)),
    'combine routing': (value) => inGraph((g, x) => g.combine(x, value)),
    'combine options': (value) => inGraph((g, x) => g.combine(x, routed(g, x), value)),
    'experts bank': (value) => inGraph((g, x) => g.experts(x, routed(g, x), value)),
    'experts routing': (value) =>
      inGraph((g, x) => g.experts(x, value, expertBank({ kind: 'relu', up: weight, down: weight }))),
    'take index': (value) => inGraph((g, x) => g.take(x, value)),
    'score options': (value) => inGraph((g, x) => g.score(x, value)),
    'score topK': (value) => inGraph((g, x) => g.score(x, { topK: value })),
    'accumulate statistic': (value) => inGraph((g, x) => g.accumulate(value, x, g.state('s', 'f64', [64]))),
    'accumulate options': (value) => inGraph((g, x) => g.accumulate('sum', x, g.state('s', 'f64', [64]), value)),
    'accumulate routing': (value) =>
      inGraph((g, x) => g.accumulate('sum', x, g.state('s', 'f64', [64]), { routing: value })),
    'convolve options': (value) =>
      inGraph((g, x, ids) => g.convolve(x, tensor, ids, ids, g.state('s', 'f32', [4, 64]), value)),
    'run inputs': (value) => program.run(value),
    'run input': (value) => program.run({ x: value }),
    'run options': (value) => program.run({ x: normal(64) }, value),
    'run into': (value) => program.run({ x: normal(64) }, { into: value }),
    'run target': (value) => program.run({ x: normal(64) }, { into: { y: value } }),
    'run sizes': (value) => program.run({ x: normal(64) }, { sizes: value }),
    'run size': (value) => program.run({ x: normal(64) }, { sizes: { tokens: value } }),
    'run signal': (value) => program.run({ x: normal(64) }, { signal: value }),
    'runSync input': (value) => program.runSync({ x: value }),
    'runSync options': (value) => program.runSync({ x: normal(64) }, value),
    'Checkpoint.open folder': (value) => Checkpoint.open(value),
    'Checkpoint.open options': (value) => Checkpoint.open(tinyModel, value),
    'Checkpoint.open signal': (value) => Checkpoint.open(tinyModel, { signal: value }),
    'entry name': (value) => checkpoint.entry(value),
    'read name': (value) => checkpoint.read(value),
    'MoeLayer.open checkpoint': (value) => MoeLayer.open(value, 0, { device }),
    'MoeLayer.open index': (value) => MoeLayer.open(checkpoint, value, { device }),
    'MoeLayer.open options': (value) => MoeLayer.open(checkpoint, 0, value),
    'MoeLayer.open device': (value) => MoeLayer.open(checkpoint, 0, { device: value }),
    'MoeLayer.open weights': (value) => MoeLayer.open(checkpoint, 0, { device, weights: value }),
    'forward x': (value) => layer.forward(value),
    'forward options': (value) => layer.forward(normal(layer.spec.hidden), value),
    'trace x': (value) => layer.trace(value),
    'Model.open folder': (value) => Model.open(value),
    'Model.open options': (value) => Model.open(tinyModel, value),
    'Model.open device': (value) => Model.open(tinyModel, { device: value }),
    'Model.open weights': (value) => Model.open(tinyModel, { device, weights: value }),
    'Model.open attention': (value) => Model.open(tinyModel, { device, weights: { format: 'f32', attention: value } }),
    'Model.open signal': (value) => Model.open(tinyModel, { device, signal: value }),
    'Model.open onProgress': (value) => Model.open(tinyModel, { device, onProgress: value }),
    'logits ids': (value) => model.logits(value),
    'logits id': (value) => model.logits([value]),
    'logits options': (value) => model.logits([1], value),
    'logits signal': (value) => model.logits([1], { signal: value }),
    'evaluate ids': (value) => model.evaluate(value, { window: 2 }),
    'evaluate options': (value) => model.evaluate(new Int32Array(300), value),
    'evaluate window': (value) => model.evaluate(new Int32Array(300), { window: value }),
    'evaluate windows': (value) => model.evaluate(new Int32Array(300), { windows: value }),
    'generate prompt': (value) => drain(model.generate(value, { maxTokens: 1 })),
    'generate maxTokens': (value) => drain(model.generate([1, 2], { maxTokens: value })),
    'generate temperature': (value) => drain(model.generate([1], { temperature: value, maxTokens: 1 })),
    'generate topP': (value) => drain(model.generate([1], { temperature: 1, topP: value, maxTokens: 1 })),
    'generate seed': (value) => drain(model.generate([1], { temperature: 1, seed: value, maxTokens: 1 })),
    'generate signal': (value) => drain(model.generate([1], { maxTokens: 1, signal: value })),
    'compress source': (value) => compress(value, { out: join(outside, 'out'), groups: 8, calibrate: [] }),
    'compress options': (value) => compress(tinyModel, value),
    'compress out': (value) => compressing({ out: typeof value === 'string' ? join(outside, value) : value }),
    'compress groups': (value) => compressing({ groups: value }),
    'compress recipe': (value) => compressing({ recipe: value }),
    'compress recover': (value) => compressing({ recover: value }),
    'compress weights': (value) => compressing({ weights: value }),
    'compress calibrate': (value) => compressing({ calibrate: value }),
    'compress file': (value) => compressing({ calibrate: [value] }),
    'compress tokens': (value) => compressing({ calibrationTokens: value }),
    'compress seed': (value) => compressing({ seed: value }),
    'compress force': (value) => compressing({ force: value }),
    'compress device': (value) => compressing({ device: value }),
    'compress signal': (value) => compressing({ signal: value }),
    'compress onProgress': (value) => compressing({ onProgress: value }),
    encode: (value) => model.tokenizer.encode(value),
    decode: (value) => model.tokenizer.decode(value),
    'decode id': (value) => model.tokenizer.decode([value]),
    'decode options': (value) => model.tokenizer.decode([1], value),
    decodeStream: (value) => model.tokenizer.decodeStream(value),
    'decodeStream push': (value) => model.tokenizer.decodeStream().push(value),
  };

  for (const [name, call] of Object.entries(calls)) {
    it(name, async () => {
      const faults: string[] = [];
      for (const [what, value] of Object.entries(values)) {
        try {
          const result = await call(value as never);
          if (result instanceof Model && result !== model) await result.dispose();
          else if (result !== null && typeof result === 'object' && 'dispose' in result) (result as Weight).dispose();
        } catch (error) {
          if (error !== own && !(error instanceof MoeError && error.code !== 'INTERNAL')) {
            faults.push(
              `${what}: ${String((error as Error)?.stack)
                .split('\n')
                .slice(0, 3)
                .join(' | ')}`,
            );
          }
        }
      }
      assert.equal(faults.length, 0, faults.join('\n'));
    });
  }

  it('leave nothing behind', () => assert.deepEqual(readdirSync(outside), []));
});
