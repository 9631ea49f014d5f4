/** The fixed surface, as types: compiled by `npm run types`, never run. A signature that changes does not compile here. */
import {
  type Bindable,
  Checkpoint,
  type CompressOptions,
  type CompressResult,
  type ContinuationScore,
  compress,
  type DecoderConfig,
  type Device,
  type DeviceExplanation,
  type DeviceInfo,
  type devices,
  type Evaluation,
  estimateSpeed,
  type explainDevice,
  type GeneratedToken,
  Graph,
  type LayerSize,
  layerOperations,
  layerSizes,
  Model,
  type ModelMemory,
  type ModelTrace,
  MoeError,
  MoeLayer,
  type MoeSpec,
  type MoeTrace,
  matrixParameters,
  modelParameters,
  openDevice,
  type ProfileNode,
  type Program,
  type Progress,
  type profileOf,
  type Report,
  type Routing,
  renderReport,
  reportData,
  type SpeedEstimate,
  type scope,
  Tensor,
  type TokenIds,
  type Tokenizer,
  type Value,
  Weight,
} from '../../lib/index.ts';

/** Equal types, not merely assignable ones. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
declare function same<A, B>(equal: Same<A, B>): void;

export async function model(folder: string, signal: AbortSignal, device: Device): Promise<void> {
  await using opened = await Model.open(folder);
  await Model.open(folder, {});
  for (const name of ['auto', 'cpu', 'reference', 'cuda:1']) await Model.open(folder, { device: name });
  await Model.open(folder, { device });
  await Model.open(folder, { weights: { format: 'int4', groupSize: 32, activation: 'auto' } });
  await Model.open(folder, { weights: { format: 'int8' } });
  await Model.open(folder, { weights: { format: 'bf16' } });
  await Model.open(folder, { signal, onProgress: (progress) => same<typeof progress, Progress>(true) });
  // @ts-expect-error: no such format
  await Model.open(folder, { weights: { format: 'int5' } });
  // @ts-expect-error: float weights have no groups
  await Model.open(folder, { weights: { format: 'f32', groupSize: 32 } });
  // @ts-expect-error: no such option
  await Model.open(folder, { devices: 'cpu' });

  same<typeof opened.config, DecoderConfig>(true);
  same<ReturnType<Model['memory']>, ModelMemory>(true);
  const { weights, cache, arena, total } = opened.memory();
  same<typeof weights | typeof cache | typeof arena | typeof total, number>(true);

  const ids = opened.tokenizer.encode('text');
  same<typeof ids, Int32Array>(true);
  const { data, shape } = await opened.logits(ids);
  same<typeof data, Float32Array>(true);
  same<typeof shape, [tokens: number, vocabulary: number]>(true);
  await opened.logits([1, 2], { signal });

  const evaluation = await opened.evaluate(ids, { window: 256, windows: 8, signal });
  same<typeof evaluation, Evaluation>(true);
  const { nll, tokens } = evaluation;
  same<typeof nll | typeof tokens, number>(true);

  const options = { maxTokens: 8, temperature: 0.7, topP: 0.9, seed: 1, signal };
  for await (const token of opened.generate('prompt', options)) {
    same<typeof token, GeneratedToken>(true);
    const { text, id } = token;
    same<typeof text, string>(true);
    same<typeof id, number>(true);
  }
  opened.generate([1, 2, 3]);
  const readOnly: TokenIds = [1, 2] as const;
  const text = opened.tokenizer.decode(readOnly, { skipSpecialTokens: true });
  same<typeof text, string>(true);
  same<typeof opened.tokenizer, Tokenizer>(true);
  same<Awaited<ReturnType<Model['score']>>, ContinuationScore[]>(true);
  await opened.score('prompt', ['a', readOnly], { signal, onProgress: ({ done, total }) => void [done, total] });
  same<Awaited<ReturnType<Model['trace']>>, ModelTrace>(true);
  await opened.trace(ids, { include: ['routerLogits', 'experts', 'hidden'], signal });
  same<ReturnType<Model['dispose']>, Promise<void>>(true);
  same<ReturnType<Model[typeof Symbol.asyncDispose]>, Promise<void>>(true);
}

export async function devicesAndTensors(signal: AbortSignal): Promise<void> {
  await using device = await openDevice('cpu', { threads: 2, isa: 'avx2', memoryLimit: 1e9, index: 0 });
  await openDevice();
  same<ReturnType<typeof devices>, DeviceInfo[]>(true);
  same<ReturnType<typeof explainDevice>, DeviceExplanation>(true);
  same<typeof device.reason, string | undefined>(true);
  using tensor = await Tensor.from(device, new Uint16Array(4), { dtype: 'bf16', shape: [2, 2] });
  same<typeof tensor, Tensor<'bf16'>>(true);
  same<Awaited<ReturnType<typeof tensor.read>>, Uint16Array>(true);
  // @ts-expect-error: an f32 tensor takes a Float32Array
  await Tensor.from(device, new Float64Array(4), { dtype: 'f32', shape: [4] });
  same<ReturnType<typeof scope<number>>, number>(true);
  using weight = await Weight.from(device, { in: 4, out: 4, format: { format: 'int8' } }, new Float32Array(16));
  await Weight.load(device, weight.spec, [], { signal });
}

export async function graphs(device: Device, weight: Weight, signal: AbortSignal | undefined): Promise<void> {
  const g = new Graph(device);
  const h: Value = g.input('h', 'f32', ['tokens', 2048]);
  const routing: Routing = g.route(g.linear(h, weight), { experts: 128, topK: 8, renormalize: true });
  using program = g.output('ids', routing.ids).compile({ tokens: 512 });
  same<typeof program, Program<'ids'>>(true);
  const { ids } = await program.run({ h: new Float32Array(2048) }, { signal });
  const made: Tensor = ids;
  const other = new Graph(device);
  other.output('y', h);
  const anything: Program = other.output('z', h).compile({ tokens: 1 });
  const { y } = await anything.run({}); // a name that the type cannot know
  same<typeof y, Tensor | undefined>(true);
  const logProbability: Value = g.score(h, { ids: h }).logProbability;
  const topIds: Value = g.score(h, { topK: 3 }).topIds;
  // @ts-expect-error: nobody asked for it
  const none: Value = g.score(h, { topK: 3 }).logProbability;
  const target = new Int32Array(8);
  const given = await program.run({ h: new Float32Array(2048) }, { into: { ids: target }, profile: true });
  const own: Int32Array = given.ids;
  // @ts-expect-error: what `into` gave comes back, no tensor
  void given.ids.read;
  void [logProbability, topIds, none];
  const inputs: Record<string, Bindable> = { h: made, own };
  program.runSync(inputs);
  same<ReturnType<typeof profileOf>, readonly ProfileNode[] | undefined>(true);
}

export async function layers(folder: string, device: Device): Promise<void> {
  await using checkpoint = await Checkpoint.open(folder);
  await using layer = await MoeLayer.open(checkpoint, 3, { device, weights: { format: 'int4' } });
  const spec: MoeSpec = layer.spec;
  const y = await layer.forward(new Float32Array(spec.hidden));
  same<typeof y, Float32Array>(true);
  same<Awaited<ReturnType<MoeLayer['trace']>>, MoeTrace>(true);
  const error: unknown = new MoeError('INTERNAL');
  if (error instanceof MoeError && error.code === 'CHECKPOINT_TENSOR_MISSING') throw error;
  // @ts-expect-error: no such code
  if (error instanceof MoeError && error.code === 'NO_SUCH_CODE') throw error;
}

export async function compression(model: string, out: string, calibrate: string): Promise<CompressResult> {
  const onProgress = (progress: { phase: string; done: number; total: number }) => void progress;
  const options: CompressOptions = { out, recipe: 'merge', groups: 8, calibrate: [calibrate], recover: 'none' };
  return compress(model, { ...options, weights: { format: 'int4' }, seed: 1, force: true, device: 'cpu', onProgress });
}

export async function reports(checkpoint: Checkpoint, device: Device, report: Report): Promise<void> {
  const estimate = estimateSpeed(checkpoint, { limits: await device.limits(), tokens: 512, frequencies: new Map() });
  same<typeof estimate, SpeedEstimate>(true);
  same<ReturnType<typeof layerSizes>, LayerSize[]>(true);
  same<ReturnType<typeof renderReport>, string>(true);
  same<ReturnType<typeof reportData>, Record<string, unknown>>(true);
  const matrices = [{ rows: 8, columns: 4, rank: 2, kept: 0.5 }];
  const counts = [matrixParameters({ rows: 8, columns: 4 }), modelParameters(1, [{ count: 2, matrices }])];
  const operations: number = layerOperations({ hidden: 4, experts: 8, topK: 2, matrices }, 1);
  void [counts, operations, layerSizes(checkpoint), renderReport(report), reportData(report)];
}
