/** A step of a recipe as the pipeline runs it. */
import type { ExpertLayer } from '../experts.ts';
import type { LayerContext } from '../layer-context.ts';
import type { Source } from '../source.ts';
import type { LayerStatistics } from '../statistics/calibrate.ts';
import type { LayerStream } from '../statistics/layer-stream.ts';

/** What a step may ask before any layer is changed. */
export interface PlanContext {
  readonly source: Source;
  /** Of the MoE layers, in order. */
  readonly statistics: readonly LayerStatistics[];
  /** The original model over the calibration windows, from `embed` on. */
  readonly stream: LayerStream;
  /** Whether what the steps break is refitted. */
  readonly recover: boolean;
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
