/** The least time that a device needs for the weights of a model: what it must read, and what it must compute (a roofline). */
import type { NativeLimits } from '../../addon.ts';
import { invalid, requireInteger, requireObject } from '../../arguments.ts';
import { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { compressedSection } from '../../checkpoint/compressed.ts';
import { familyOf } from '../../model/family.ts';
import { type MoeSpec, slotsOf } from '../../moe/spec.ts';
import { bytesOf, storedExperts } from './stored-experts.ts';

export interface SpeedOptions {
  /** What the device can do at best, as `Device.limits` measures it. */
  readonly limits: NativeLimits;
  /** Tokens of a run. Default 1. */
  readonly tokens?: number | undefined;
  /** By layer, the share of the router's choices that falls on each original expert. Default: all alike. */
  readonly frequencies?: ReadonlyMap<number, readonly number[]> | undefined;
}

/** Of one run; attention to the cache and what lies between the layers are not counted. */
export interface SpeedEstimate {
  readonly tokens: number;
  /** Weights that are read: all outside of the experts, and the experts that some token is expected to choose. */
  readonly bytes: number;
  /** Of matrix products, by the values of the matrix; a multiplication and an addition are two. */
  readonly operations: { readonly float: number; readonly integer: number };
  /** The larger of bytes / bandwidth and operations / peak; null: the device cannot measure its limits. */
  readonly seconds: number | null;
  readonly tokensPerSecond: number | null;
  /** Which of them it is. */
  readonly limit: 'memory' | 'arithmetic' | null;
}

interface Work {
  bytes: number;
  float: number;
  integer: number;
}

/**
 * What a model folder's weights allow at best, in the form in which they are stored. Throws INVALID_ARGUMENT, and what reading the
 * folder's config throws.
 */
export function estimateSpeed(checkpoint: Checkpoint, options: SpeedOptions): SpeedEstimate {
  if (!(checkpoint instanceof Checkpoint)) throw invalid('checkpoint', 'a Checkpoint of Checkpoint.open()', checkpoint);
  const { limits, tokens = 1, frequencies } = requireObject(options);
  requireObject(limits, 'limits');
  requireInteger(tokens, 'tokens');
  const { config: read, names } = familyOf(checkpoint.config);
  const config = read(checkpoint.config);
  const sections = compressedSection(checkpoint.config)?.layers;
  const others = new Set(checkpoint.tensors.keys());
  const work: Work = { bytes: 0, float: 0, integer: 0 };
  for (const [index, { block }] of config.layers.entries()) {
    if (block.kind !== 'moe') continue;
    const section = sections?.get(index);
    const groupOf = section?.router === 'slots' ? section.groupOf : undefined;
    const chances = slotChances(block.moe, groupOf, frequencies?.get(index));
    const baseOf = block.moe.stored?.baseOf;
    for (const part of storedExperts(checkpoint, block.moe, names.layer(index).moe)) {
      for (const name of part.tensors) others.delete(name);
      const all = [...chances.keys()];
      const users = part.part === 'base' && baseOf ? all.filter((slot) => baseOf[slot] === part.slot) : [part.slot];
      const idle = users.reduce((product, slot) => product * (1 - (chances[slot] as number)) ** tokens, 1);
      const runs = users.reduce((sum, slot) => sum + (chances[slot] as number), 0);
      work.bytes += part.bytes * (1 - idle);
      work[part.integer ? 'integer' : 'float'] += 2 * tokens * runs * part.parameters;
    }
  }
  const embedding = `${names.embedding}.weight`;
  for (const name of others) {
    const { shape } = checkpoint.entry(name);
    const [rows = 1, columns] = shape;
    const isTable = name === embedding && !config.tied;
    work.bytes += bytesOf(checkpoint, name) * (isTable ? Math.min(1, tokens / rows) : 1);
    if (columns !== undefined && !isTable) work.float += 2 * tokens * rows * columns;
  }
  return bound(work, limits, tokens);
}

/** How likely a token is to run each stored expert, its choices taken as independent. */
function slotChances(
  spec: MoeSpec,
  groupOf: Int32Array | undefined,
  frequencies: readonly number[] | undefined,
): number[] {
  const { topK, experts } = spec.router;
  const slots = slotsOf(spec);
  const slotOf = groupOf ?? spec.merged?.groupOf ?? Int32Array.from({ length: experts }, (_, expert) => expert);
  const share = (expert: number): number => frequencies?.[expert] ?? 1 / slotOf.length;
  if (groupOf) {
    // The router chooses among what is left: those take over the choices of experts that are gone.
    const shares = new Array<number>(slots).fill(0);
    groupOf.forEach((slot, expert) => {
      if (slot >= 0) shares[slot] = (shares[slot] as number) + share(expert);
    });
    const total = shares.reduce((sum, own) => sum + own, 0);
    return shares.map((own) => Math.min(1, (topK * own) / total));
  }
  const idle = new Array<number>(slots).fill(1);
  slotOf.forEach((slot, expert) => {
    idle[slot] = (idle[slot] as number) * (1 - Math.min(1, topK * share(expert)));
  });
  return idle.map((chance) => 1 - chance);
}

function bound({ bytes, float, integer }: Work, limits: NativeLimits, tokens: number): SpeedEstimate {
  const { readBytesPerSecond, f32OperationsPerSecond, bf16OperationsPerSecond, int8OperationsPerSecond } = limits;
  const floatPeak = Math.max(f32OperationsPerSecond, bf16OperationsPerSecond);
  const integerPeak = Math.max(floatPeak, int8OperationsPerSecond);
  const operations = { float, integer };
  if (!(readBytesPerSecond > 0 && floatPeak > 0)) {
    return { tokens, bytes, operations, seconds: null, tokensPerSecond: null, limit: null };
  }
  const [byMemory, byArithmetic] = [bytes / readBytesPerSecond, float / floatPeak + integer / integerPeak];
  const seconds = Math.max(byMemory, byArithmetic);
  const limit = byMemory >= byArithmetic ? 'memory' : 'arithmetic';
  return { tokens, bytes, operations, seconds, tokensPerSecond: tokens / seconds, limit };
}
