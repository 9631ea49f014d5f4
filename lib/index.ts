/** The public face: named re-exports, nothing else. */
export type {
  HostArray,
  NativeBytes,
  NativeDimension,
  NativeFile,
  NativeLimits,
  NativeMemory,
  NativePiece,
  NativeWeightForm,
} from './addon.ts';
export { Checkpoint, type SafetensorsDtype, type StoredArray, type TensorEntry } from './checkpoint/checkpoint.ts';
export type { Yarn } from './checkpoint/config.ts';
export type { DecodeOptions, DecodeStream, TokenIds, Tokenizer } from './checkpoint/tokenizer.ts';
export { type CompressOptions, type CompressResult, compress } from './compress/compress.ts';
export { exportHuggingFace } from './compress/huggingface.ts';
export type { Recipe } from './compress/recipe/schema.ts';
export {
  type CountedExperts,
  type CountedLayer,
  type CountedMatrix,
  layerOperations,
  matrixParameters,
  modelParameters,
} from './compress/report/accounting.ts';
export {
  type LayerReport,
  type ModelReport,
  type Report,
  renderReport,
  reportData,
  type SpeedReport,
} from './compress/report/report.ts';
export { estimateSpeed, type SpeedEstimate, type SpeedOptions } from './compress/report/speed.ts';
export { type LayerSize, layerSizes } from './compress/report/stored-experts.ts';
export { type SweepOptions, type SweepRow, sweep } from './compress/sweep.ts';
export { Device } from './device/device.ts';
export { type DeviceExplanation, type DeviceReason, explainDevice } from './device/explain.ts';
export { type DeviceInfo, type DeviceOptions, devices, openDevice } from './device/open.ts';
export { type ErrorCode, type ErrorDetails, errorCodes, MoeError } from './errors.ts';
export type { Bindable } from './graph/binding.ts';
export type { ExpertsOptions } from './graph/experts.ts';
export { Graph } from './graph/graph.ts';
export type { AccumulateOptions, Statistic } from './graph/ops/accumulate.ts';
export type { AttentionOptions } from './graph/ops/attention.ts';
export type { CombineOptions } from './graph/ops/combine.ts';
export type { ConvolveOptions } from './graph/ops/convolve.ts';
export type { EmbedOptions } from './graph/ops/embed.ts';
export type { Activation, LinearOptions } from './graph/ops/linear.ts';
export type { MapFunction, MapOptions } from './graph/ops/map.ts';
export type { NormOptions } from './graph/ops/norm.ts';
export type { RotateOptions } from './graph/ops/rotate.ts';
export type { RouteOptions } from './graph/ops/route.ts';
export type { Score, ScoreOptions } from './graph/ops/score.ts';
export { limitShare, type ProfileNode, profileOf } from './graph/profile.ts';
export { type Outputs, Program, type RunOptions, type RunSyncOptions } from './graph/program.ts';
export type { Routing } from './graph/routing.ts';
export type { Value } from './graph/value.ts';
export type { AttentionConfig, BlockConfig, DecoderConfig, LayerConfig, RopeConfig } from './model/decoder-config.ts';
export type { EvaluateOptions, Evaluation, Progress } from './model/evaluate.ts';
export type { GeneratedToken, GenerateOptions } from './model/generate.ts';
export type { CacheDtype } from './model/kv-cache.ts';
export { Model, type ModelMemory, type OpenOptions } from './model/model.ts';
export { MoeLayer, type MoeLayerOptions, type MoeTrace } from './model/moe-layer.ts';
export type { SamplingOptions } from './model/sampling.ts';
export type { ContinuationOptions, ContinuationScore } from './model/score.ts';
export type { LayerTrace, ModelTrace, TraceOptions, TracePart } from './model/trace.ts';
export type { ModelWeights } from './model/weights.ts';
export type { RouterSpec } from './moe/router-spec.ts';
export type { MergeSpec, MoeSpec } from './moe/spec.ts';
export { type Dtype, dtypeBytes, type HostArrays } from './tensor/dtype.ts';
export { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from './tensor/half.ts';
export { scope } from './tensor/scope.ts';
export type { Dimension, Shape } from './tensor/shape.ts';
export { Tensor } from './tensor/tensor.ts';
export { type ExpertBank, type ExpertKind, expertBank } from './weight/bank.ts';
export {
  type ActivationMode,
  type FloatFormat,
  formatBytes,
  formatName,
  type GroupSize,
  type IntegerFormat,
  parseWeightFormat,
  type WeightFormat,
} from './weight/format.ts';
export type { WeightValues } from './weight/pieces.ts';
export type { KeptRows, LowRank, Sparse, WeightSpec } from './weight/spec.ts';
export { Weight } from './weight/weight.ts';
