/** One MoE layer of a run: its steps, what is stored of it, and the stream's way past it. */
import { type CompressedLayer, compressedJson, compressedSection } from '../checkpoint/compressed.ts';
import { SafetensorsFile } from '../checkpoint/safetensors-file.ts';
import type { StoredTensor } from '../checkpoint/tensor-source.ts';
import type { WriterEntry } from '../checkpoint/writer.ts';
import { loadBank } from '../moe/bank.ts';
import { loadShared } from '../moe/block.ts';
import { WeightLoader } from '../moe/loader.ts';
import { expertParts } from '../moe/parts.ts';
import type { MoeNames, MoeSpec } from '../moe/spec.ts';
import { describeLayer, encodeExperts, encodeRouter, expertEntries, layerBytes, narrow, specOf } from './encode.ts';
import type { ExpertLayer } from './experts.ts';
import { besideEntries, besideExperts, type ScaledTensor, scaledTensors, scalesInputs } from './input-scales.ts';
import { LayerContext } from './layer-context.ts';
import { matrixNames } from './originals.ts';
import type { FinishedLayer } from './progress-file.ts';
import { scaleColumns } from './quantize/awq.ts';
import { rounded } from './quantize/rounding.ts';
import type { Recipe } from './recipe/schema.ts';
import { refitRouter } from './recover/router.ts';
import type { LayerReport } from './report/report.ts';
import type { Source, SourceLayer } from './source.ts';
import type { LayerStream } from './statistics/layer-stream.ts';
import { makeStep } from './steps/index.ts';
import { finalForms } from './steps/quantize.ts';
import type { Json } from './steps/step.ts';

const formats = { F32: 'f32', F16: 'f16', BF16: 'bf16' } as const;

export class LayerRun {
  readonly index: number;
  readonly #source: Source;
  readonly #recipe: Recipe;
  readonly #spec: MoeSpec;
  readonly #names: MoeNames;
  readonly #norm: string;
  /** What reads or gives the block's input beside experts and router, where the recipe scales that. */
  readonly #beside: readonly ScaledTensor[];

  constructor(source: Source, recipe: Recipe, { index, spec, names, norm }: SourceLayer) {
    this.index = index;
    this.#source = source;
    this.#recipe = recipe;
    this.#spec = spec;
    this.#names = names;
    this.#norm = norm;
    this.#beside = scalesInputs(recipe) ? besideExperts(names, norm, source.checkpoint) : [];
  }

  /** Names of the source tensors that the layer's file replaces. */
  get sourceNames(): string[] {
    const { experts } = this.#spec.router;
    const matrices = Array.from({ length: experts }, (_, expert) => matrixNames(this.#names.expert(expert)));
    return [...matrices.flat(), `${this.#names.router}.weight`, ...this.#beside.map(({ name }) => name)];
  }

  /**
   * Runs the first steps of the recipe on the entered layer.
   *
   * @param decisions one for each of these steps
   */
  async apply(
    stream: LayerStream,
    decisions: readonly (Json | undefined)[],
    signal: AbortSignal | undefined,
  ): Promise<{ layer: ExpertLayer; context: LayerContext }> {
    const { checkpoint } = this.#source;
    const context = new LayerContext(this.index, this.#spec, this.#names, stream, checkpoint, this.#recipe, signal);
    if (this.#refitsRouter) await context.replaceRouter(await this.#storable(await refitRouter(context)));
    const original = context.originals({ format: formats[this.#dtype()] });
    let layer: ExpertLayer = {
      ...original,
      forms: finalForms(this.#recipe, this.index, original.forms, decisions),
    };
    for (const [at, decision] of decisions.entries()) {
      signal?.throwIfAborted();
      layer = await makeStep(this.#recipe.steps[at] as Recipe['steps'][0]).apply(layer, context, decision);
    }
    return { layer, context };
  }

  /** Runs all steps on the entered layer and hands the result on, tensor by tensor. */
  async compress(
    stream: LayerStream,
    decisions: readonly (Json | undefined)[],
    write: (entries: readonly WriterEntry[], tensors: AsyncIterable<StoredTensor>) => Promise<void>,
    signal: AbortSignal | undefined,
  ): Promise<FinishedLayer> {
    const { layer, context } = await this.apply(stream, decisions, signal);
    const described = describeLayer(layer);
    const spec = specOf(this.#spec, described);
    const router = await this.#router(layer, this.#refitsRouter ? await context.router() : undefined);
    const entries = [
      ...expertEntries(spec, this.#names),
      router,
      ...besideEntries(this.#beside, this.#source.checkpoint),
    ];
    await write(entries, this.#tensors(layer, spec, router));
    const report = this.#report(layer, spec, context, await context.outputError(layer));
    return { layer: this.index, described: json(described), report };
  }

  async *#tensors(layer: ExpertLayer, spec: MoeSpec, router: StoredTensor): AsyncGenerator<StoredTensor> {
    yield* encodeExperts(layer, spec, this.#names);
    yield router;
    yield* scaledTensors(this.#beside, this.#source.checkpoint, layer.inputScales);
  }

  /** Moves the stream past a layer, now in its file. */
  async leave(stream: LayerStream, file: string, { described }: FinishedLayer): Promise<void> {
    const spec = specOf(this.#spec, read(described));
    using tensors = await SafetensorsFile.open(file);
    const loader = new WeightLoader(stream.device, tensors);
    try {
      const experts = await loadBank(loader, spec, this.#names, undefined);
      const router = await loader.linear(this.#names.router, spec.router.experts, spec.hidden);
      if (this.#beside.length === 0) return await stream.leave((original) => ({ ...original, spec, experts, router }));
      const beside = await loadShared(loader, spec, this.#names, undefined);
      await stream.leave(() => ({ spec, experts, router, ...beside }), await loader.tensor(`${this.#norm}.weight`));
    } finally {
      loader.dispose();
    }
  }

  get #refitsRouter(): boolean {
    return this.#recipe.recover !== 'none' && this.#recipe.refit.includes('router');
  }

  /** Of the source's expert matrices. */
  #dtype(): 'F32' | 'F16' | 'BF16' {
    const [, up] = matrixNames(this.#names.expert(0));
    const { dtype } = this.#source.checkpoint.entry(up);
    return dtype === 'BF16' || dtype === 'F16' ? dtype : 'F32';
  }

  /** The layer's own router; else all rows of the source's, or others in its dtype. */
  async #router(
    { router, hidden, inputScales: scales }: ExpertLayer,
    rows: Float32Array | undefined,
  ): Promise<StoredTensor> {
    const { checkpoint } = this.#source;
    const name = `${this.#names.router}.weight`;
    if (router) return encodeRouter(scales ? scaleColumns(router, scales) : router, hidden, name, this.#dtype());
    const { dtype, shape } = checkpoint.entry(name);
    if (scales) {
      const own = rows ?? (await checkpoint.readF32(name));
      return { name, dtype, shape, data: narrow(scaleColumns(own, scales), dtype) };
    }
    const data = rows ? narrow(rows, dtype) : ((await checkpoint.read(name)) as StoredTensor['data']);
    return { name, dtype, shape, data };
  }

  /** Router rows as a reader will have them. */
  #storable(rows: Float32Array): Promise<Float32Array> {
    const { dtype } = this.#source.checkpoint.entry(`${this.#names.router}.weight`);
    const format = formats[dtype as keyof typeof formats] ?? 'f32';
    return rounded(rows, this.#spec.router.experts, this.#spec.hidden, { format });
  }

  #report(layer: ExpertLayer, spec: MoeSpec, context: LayerContext, error: number): LayerReport {
    const parts = [...expertParts(spec, spec.stored as NonNullable<MoeSpec['stored']>, this.#names)];
    const weights = parts.reduce((sum, { part }) => sum + part.rows * part.columns, 0);
    const ranks = (['gate', 'up', 'down'] as const).flatMap((name) => {
      const rank = spec.stored?.[name]?.lowRank?.rank;
      return rank ? [[name, [...rank]] as const] : [];
    });
    const router = (layer.router ? layer.slots.length : this.#spec.router.experts) * layer.hidden;
    return {
      layer: this.index,
      experts: this.#spec.router.experts,
      groups: layer.slots.length,
      labels: [...layer.groupOf],
      frequencies: [...(context.grouping?.frequencies ?? [])],
      similarity: [...(context.grouping?.similarity ?? [])],
      widths: layer.slots.map(({ width }) => width),
      ...(ranks.length > 0 && { ranks: Object.fromEntries(ranks) }),
      error,
      bytes: layerBytes(spec, this.#names),
      parameters: weights + router,
    };
  }
}

/** A described layer as config.json has it, and back. */
function json(described: CompressedLayer): Record<string, unknown> {
  const layers = new Map([[0, described]]);
  const made = compressedJson({ version: 2, madeBy: '', recipe: {}, weights: null, layers });
  return (made.layers as Record<string, Record<string, unknown>>)[0] as Record<string, unknown>;
}

function read(described: Readonly<Record<string, unknown>>): CompressedLayer {
  const moe = { version: 2, madeBy: '', recipe: {}, weights: null, layers: { 0: described } };
  return compressedSection({ moe })?.layers.get(0) as CompressedLayer;
}
