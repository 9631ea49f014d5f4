/** What the machine can do at best, and how a piece of work stands against it. */
import type { NativeLimits } from '../addon.ts';
import type { Device } from '../device/device.ts';

/** Operations by the fastest units that may do them: a multiplication and an addition are two. */
export interface Operations {
  /** Products of f32 numbers. */
  readonly f32?: number;
  /** Of a 16-bit operand. */
  readonly bf16?: number;
  /** Of integers, both operands. */
  readonly int8?: number;
}

export interface Cost {
  /** That have to come from memory. */
  readonly bytes: number;
  readonly operations: Operations;
}

export interface Bound {
  readonly seconds: number;
  readonly limit: 'memory' | 'arithmetic';
}

/** The best of all measurements of a run, which go on between the rows. */
export class LimitMeter {
  readonly #device: Device;
  #best: NativeLimits | undefined;
  #measured = Number.NEGATIVE_INFINITY;

  constructor(device: Device) {
    this.#device = device;
  }

  get limits(): NativeLimits {
    return this.#best ?? noLimits;
  }

  /** Does nothing where the last measurement is less than two seconds ago: a quick row needs none of its own. */
  async measure(): Promise<void> {
    if (performance.now() - this.#measured < 2000) return;
    const now = await this.#device.limits();
    const before = this.limits;
    this.#best = Object.fromEntries(
      limitNames.map((name) => [name, Math.max(now[name], before[name])]),
    ) as unknown as NativeLimits;
    this.#measured = performance.now();
  }
}

export const limitNames = [
  'readBytesPerSecond',
  'f32OperationsPerSecond',
  'bf16OperationsPerSecond',
  'int8OperationsPerSecond',
] as const;
const noLimits = Object.fromEntries(limitNames.map((name) => [name, 0])) as unknown as NativeLimits;

export function totalOperations({ f32 = 0, bf16 = 0, int8 = 0 }: Operations): number {
  return f32 + bf16 + int8;
}

/** Operations/s of each kind: units for the narrower kind may be the slower ones, and nobody has to use them. */
export function peaks(limits: NativeLimits): Required<Operations> {
  const f32 = limits.f32OperationsPerSecond;
  const bf16 = Math.max(f32, limits.bf16OperationsPerSecond);
  return { f32, bf16, int8: Math.max(bf16, limits.int8OperationsPerSecond) };
}

/** The least time for the work; undefined where the device cannot measure its limits. */
export function boundOf({ bytes, operations }: Cost, limits: NativeLimits): Bound | undefined {
  const peak = peaks(limits);
  if (!(limits.readBytesPerSecond > 0 && peak.f32 > 0)) return undefined;
  const byMemory = bytes / limits.readBytesPerSecond;
  const { f32 = 0, bf16 = 0, int8 = 0 } = operations;
  const byArithmetic = f32 / peak.f32 + bf16 / peak.bf16 + int8 / peak.int8;
  return { seconds: Math.max(byMemory, byArithmetic), limit: byMemory >= byArithmetic ? 'memory' : 'arithmetic' };
}
