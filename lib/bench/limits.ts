/** What the machine can do at best, and how a piece of work stands against it. */
import type { NativeLimits } from '../addon.ts';

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

/** What a turn of timing gave, and what the machine could read around it. */
export interface Turn<T> {
  readonly result: T;
  readonly readBytesPerSecond: number;
}

/** Measurements of the limits before and after each turn of timing, and the best of all of them. */
export class LimitMeter {
  readonly #probe: () => Promise<NativeLimits>;
  #best: NativeLimits | undefined;
  #last: NativeLimits | undefined;
  #measured = Number.NEGATIVE_INFINITY;

  constructor(probe: () => Promise<NativeLimits>) {
    this.#probe = probe;
  }

  /** The best of the run. */
  get limits(): NativeLimits {
    return this.#best ?? noLimits;
  }

  /**
   * Other tenants of a machine may halve for seconds what it reads, so a turn is held against what was read right before and
   * after it; one in which that changed by more than a tenth is done again, and of all `attempts` the steadiest counts.
   */
  async during<T>(turn: () => T | Promise<T>, attempts = 4): Promise<Turn<T>> {
    let steadiest: Turn<T> | undefined;
    for (let attempt = 0, least = Number.POSITIVE_INFINITY; attempt < attempts && least > 0.1; attempt++) {
      const before = (await this.measure()).readBytesPerSecond;
      const result = await turn();
      const after = (await this.measure()).readBytesPerSecond;
      const readBytesPerSecond = Math.max(before, after);
      const change = readBytesPerSecond > 0 ? Math.abs(after - before) / readBytesPerSecond : 0;
      if (change < least) [steadiest, least] = [{ result, readBytesPerSecond }, change];
    }
    return steadiest as Turn<T>;
  }

  /** What the machine reaches now, or did less than a fifth of a second ago. */
  async measure(): Promise<NativeLimits> {
    if (this.#last && performance.now() - this.#measured < 200) return this.#last;
    const now = await this.#probe();
    const before = this.limits;
    this.#best = Object.fromEntries(
      limitNames.map((name) => [name, Math.max(now[name], before[name])]),
    ) as unknown as NativeLimits;
    this.#measured = performance.now();
    this.#last = now;
    return now;
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
