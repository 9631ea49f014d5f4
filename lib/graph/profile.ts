/** Where the time of a run went. */
import type { NativeLimits, NativeProfileNode } from '../addon.ts';
import { requireObject } from '../arguments.ts';

export interface ProfileNode {
  readonly operation: string;
  readonly name: string;
  readonly microseconds: number;
  /** Read and written at this run's sizes, by the operation's own count. */
  readonly bytes: number;
  /** Multiply and add count as two. */
  readonly operations: number;
  readonly gigabytesPerSecond: number;
  readonly teraoperationsPerSecond: number;
  /** As {@link limitShare} by the device's last `limits()`; null where they were not measured. */
  readonly share: number | null;
}

const profiles = new WeakMap<object, readonly ProfileNode[]>();

/** @internal */
export function keepProfile(
  outputs: object,
  nodes: readonly NativeProfileNode[],
  limits: NativeLimits | undefined,
): void {
  const profile = nodes.map(({ operation, name, nanoseconds, bytes, operations }): ProfileNode => {
    const counts = { microseconds: nanoseconds / 1000, bytes, operations };
    const rate = (amount: number): number => (nanoseconds > 0 ? amount / nanoseconds : 0);
    return {
      operation,
      name,
      ...counts,
      gigabytesPerSecond: rate(bytes),
      teraoperationsPerSecond: rate(operations) / 1000,
      share: limits && limits.readBytesPerSecond > 0 ? limitShare(counts, limits) : null,
    };
  });
  profiles.set(outputs, profile);
}

/** The nodes in the order in which they ran, of the outputs of a run with `profile: true`; else undefined. */
export function profileOf(outputs: object): readonly ProfileNode[] | undefined {
  return profiles.get(outputs);
}

/**
 * Share of the physical limit that a node reached: its bytes over the bandwidth or its operations over the peak, whichever is
 * longer, by the time it took. `limits` are those of `device.limits()`; what is 0 there limits nothing. Throws INVALID_ARGUMENT.
 */
export function limitShare(
  node: Pick<ProfileNode, 'microseconds' | 'bytes' | 'operations'>,
  limits: NativeLimits,
): number {
  requireObject(node, 'node');
  requireObject(limits, 'limits');
  const seconds = (amount: number, rate: number): number => (rate > 0 ? amount / rate : 0);
  const { f32OperationsPerSecond: f32, int8OperationsPerSecond: int8, bf16OperationsPerSecond: bf16 } = limits;
  const peak = Math.max(f32, int8, bf16);
  const bound = Math.max(seconds(node.bytes, limits.readBytesPerSecond), seconds(node.operations, peak));
  return node.microseconds > 0 ? bound / (node.microseconds * 1e-6) : 0;
}
