/** Planned and counted work of the kernels that a device launched since it was opened with `traffic`. */
import type { Device } from '../../lib/index.ts';

export interface KernelTraffic {
  readonly kernel: string;
  readonly launches: number;
  readonly plannedBytes: number;
  readonly plannedOperations: number;
  /** Of a block, the largest launched; and its bytes of dynamic shared memory. */
  readonly threads: number;
  readonly sharedBytes: number;
  /** Read and written. */
  readonly bytes: number;
  readonly sectors: number;
  readonly idealSectors: number;
  readonly sharedRequests: number;
  readonly sharedConflicts: number;
  readonly matrixProducts: number;
}

interface Planned {
  launches: number;
  bytes: number;
  operations: number;
  threads: number;
  shared: number;
}

interface Counted {
  launches: number;
  readBytes: number;
  writtenBytes: number;
  sectors: number;
  idealSectors: number;
  sharedRequests: number;
  sharedConflicts: number;
  matrixProducts: number;
}

/** 'void moe::cuda::decode_kernel<4, true>(moe::cuda::Frame const*, …)' → 'decode'. */
const plainName = (symbol: string): string => /(\w+)_kernel\b/.exec(symbol)?.[1] ?? symbol;

/** One row a kernel, in order of their names. The frame's own kernel is left out: it is not part of a node's plan. */
export function traffic(device: Device): KernelTraffic[] {
  const { planned, counted = {} } = JSON.parse(device.native.describe()) as {
    planned: Record<string, Planned>;
    counted?: Record<string, Counted>;
  };
  const sums = new Map<string, Counted>();
  for (const [symbol, counts] of Object.entries(counted)) {
    const sum = sums.get(plainName(symbol));
    if (!sum) sums.set(plainName(symbol), { ...counts });
    else for (const key of Object.keys(counts) as (keyof Counted)[]) sum[key] += counts[key];
  }
  return Object.entries(planned)
    .filter(([kernel]) => kernel !== 'fill_frame')
    .map(([kernel, { launches, bytes, operations, threads, shared }]) => {
      const counts = sums.get(kernel);
      if (!counts) throw new Error(`nothing was counted for ${kernel}; counted: ${[...sums.keys()].join(', ')}`);
      return {
        kernel,
        launches,
        plannedBytes: bytes,
        plannedOperations: operations,
        threads,
        sharedBytes: shared,
        bytes: counts.readBytes + counts.writtenBytes,
        sectors: counts.sectors,
        idealSectors: counts.idealSectors,
        sharedRequests: counts.sharedRequests,
        sharedConflicts: counts.sharedConflicts,
        matrixProducts: counts.matrixProducts,
      };
    })
    .sort((a, b) => (a.kernel < b.kernel ? -1 : 1));
}
