/** A step of a recipe as the pipeline runs it. */
import type { OutputFolder } from '../../checkpoint/folder.ts';
import type { ExpertLayer } from '../experts.ts';
import { LayerContext } from '../layer-context.ts';
import type { Recipe } from '../recipe/schema.ts';
import { moeLayers, type Source } from '../source.ts';
import type { LayerStatistics } from '../statistics/calibrate.ts';
import type { LayerStream } from '../statistics/layer-stream.ts';
import type { Grouping } from './group.ts';

/** What a step may ask before any layer is changed. */
export interface PlanContext {
  readonly source: Source;
  readonly recipe: Recipe;
  /** Of the MoE layers, in order. */
  readonly statistics: readonly LayerStatistics[];
  readonly windows: readonly Int32Array[];
  /** The original model over the calibration windows, from `embed` on. */
  readonly stream: LayerStream;
  readonly signal: AbortSignal | undefined;
  /** Where a plan may keep files named `*.partial` while it is made. */
  readonly folder: OutputFolder;
  /** What the last `group` step before decided, for each MoE layer. */
  readonly grouping: readonly Grouping[] | undefined;
  /** Takes `stream` through the model as the steps before leave it: `visit` sees each MoE layer. */
  eachLayerSoFar(phase: string, visit: (index: number, layer: ExpertLayer) => Promise<void>): Promise<void>;
  /** Says how far a plan is, and throws where the run was aborted. */
  report(phase: string, done: number, total: number): void;
}

/** A value that JSON keeps as it is: decisions survive a restart. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

export interface Step {
  /** Decides over all layers before any is changed: one value for each MoE layer. */
  plan?(context: PlanContext): Promise<readonly Json[]>;
  /** Changes one layer, on the inputs that the compressed layers before it give. */
  apply(layer: ExpertLayer, context: LayerContext, decision: Json | undefined): Promise<ExpertLayer>;
}

/** Takes a plan through the original model: `visit` sees each MoE layer, entered, with its original experts. */
export async function eachOriginalLayer(
  { source, recipe, stream, report }: PlanContext,
  phase: string,
  visit: (layer: ExpertLayer, context: LayerContext) => Promise<void>,
): Promise<void> {
  const layers = new Map(moeLayers(source).map((layer) => [layer.index, layer]));
  await stream.embed();
  for (const index of source.config.layers.keys()) {
    report(phase, index, source.config.layers.length);
    await stream.enter(index);
    const own = layers.get(index);
    if (own) {
      const context = new LayerContext(index, own.spec, own.names, stream, source.checkpoint, recipe);
      await visit(context.originals({ format: 'f32' }), context);
    }
    await stream.leave();
  }
}
