/** How many threads of a kernel a multiprocessor holds at once. */

/** Of one multiprocessor: threads, blocks, bytes of shared memory that blocks share, each paying 1 KiB besides its own. */
const multiprocessors = {
  80: { threads: 2048, blocks: 32, shared: 164 << 10 },
  86: { threads: 1536, blocks: 16, shared: 100 << 10 },
  89: { threads: 1536, blocks: 24, shared: 100 << 10 },
  90: { threads: 2048, blocks: 32, shared: 228 << 10 },
  100: { threads: 2048, blocks: 32, shared: 228 << 10 },
  120: { threads: 1536, blocks: 24, shared: 100 << 10 },
};

/**
 * Part of a multiprocessor's threads that can be resident, by registers, threads, blocks and shared memory; else undefined.
 *
 * @param {string} architecture as sm_90a
 * @param {{registers: number, shared: number}} kernel registers a thread, bytes of static shared memory
 * @param {{threads?: number, shared?: number}} block its threads, and bytes of dynamic shared memory
 * @returns {number | undefined}
 */
export function occupancy(architecture, { registers, shared }, { threads, shared: dynamic = 0 }) {
  const limits = multiprocessors[/\d+/.exec(architecture)?.[0] ?? ''];
  if (!limits || !threads) return undefined;
  const warps = Math.ceil(threads / 32);
  // Registers come in units of 256 a warp, from one of four files of 16384.
  const warpsByRegisters = 4 * Math.floor(16384 / (Math.ceil((registers * 32) / 256) * 256));
  const blocks = Math.min(
    limits.blocks,
    Math.floor(limits.threads / (warps * 32)),
    Math.floor(warpsByRegisters / warps),
    Math.floor(limits.shared / (shared + dynamic + 1024)),
  );
  return (blocks * warps * 32) / limits.threads;
}
