/**
 * The table of CUDA kernels: planned bytes and operations of each form on a small shape, what the simt device counted of it, the
 * registers that `npm run check:cuda` holds them to, and the share of a multiprocessor's threads that can be resident with those,
 * the threads and the dynamic shared memory of the launch. No time is measured: nothing here needs a GPU. Times that
 * `npm run gpu-check -- bench` has left in bench/results follow as tables of their own: its shapes are those of models.
 *
 *   node --import=tsx bench/kernels.ts [--json]
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { openDevice } from '../lib/index.ts';
import { occupancy } from '../tools/cuda/occupancy.mjs';
import { Kit, subjects } from './kernels/subjects.ts';
import { type KernelTraffic, traffic } from './kernels/traffic.ts';

const { values: options } = parseArgs({ options: { json: { type: 'boolean', default: false } } });
/** Of an H200, from its data sheet: bytes and bf16 operations a second. */
const [bandwidth, peak] = [4.8e12, 989e12];

type Registers = Record<string, { registers: Record<string, number> } | undefined>;
const registers = JSON.parse(
  readFileSync(new URL('../tools/cuda/registers.json', import.meta.url), 'utf8'),
) as Registers;
const architectures = ['sm_80', 'sm_90a'];
const registersOf = (kernel: string, architecture: string): number | undefined =>
  registers[`${kernel}_kernel`]?.registers[architecture];

/**
 * Percent of a multiprocessor's threads that can be resident, at least: by the registers of the template's most demanding
 * instance, which may not be the one that was launched. '–' where that one could not run with as many threads at all. No kernel
 * has static shared memory.
 */
function resident({ kernel, threads, sharedBytes }: KernelTraffic, architecture: string): string {
  const count = registersOf(kernel, architecture);
  if (count === undefined) return '–';
  const part = occupancy(architecture, { registers: count, shared: 0 }, { threads, shared: sharedBytes });
  return part ? (100 * part).toFixed(0) : '–';
}

interface Measured {
  date: string;
  device: { gpu: string };
  rows: {
    name: string;
    skipped?: string;
    microseconds: number;
    limit: string;
    shareOfRead: number;
    shareOfBf16: number;
    peer?: { name: string; ratio?: number };
  }[];
}

/** Files of real times only: those of a dry run say that theirs mean nothing. */
function printMeasured(folder: URL): void {
  const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.json')) : [];
  for (const file of files.sort()) {
    const results = JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as Measured & {
      timesMeanSomething?: boolean;
    };
    if (!results.timesMeanSomething) continue;
    console.log(
      `\n${results.device.gpu}, ${results.date}:\n\n| row | µs | bound | share of the measured limit | time beside a peer's |\n|---|---|---|---|---|`,
    );
    for (const { name, skipped, microseconds, limit, shareOfRead, shareOfBf16, peer } of results.rows) {
      const share = limit === 'memory' ? shareOfRead : shareOfBf16;
      const cells = skipped
        ? ['–', '–', `skipped: ${skipped}`, '–']
        : [
            microseconds,
            limit,
            `${(100 * share).toFixed(0)} %`,
            peer?.ratio ? `× ${peer.ratio.toFixed(2)} of ${peer.name}` : '–',
          ];
      console.log(`| ${[name, ...cells].join(' | ')} |`);
    }
  }
}

const rows: (KernelTraffic & { subject: string })[] = [];
for (const { title, build } of subjects) {
  await using device = await openDevice('simt', { traffic: true });
  const kit = new Kit(device);
  await build(kit);
  await kit.run();
  rows.push(...traffic(device).map((row) => ({ subject: title, ...row })));
}

if (options.json) console.log(JSON.stringify(rows, null, 2));
else {
  const columns = [
    'form',
    'kernel',
    'registers 80 / 90a',
    'threads',
    'shared bytes',
    'occupancy 80 / 90a, %',
    'planned bytes',
    'counted',
    'sectors',
    'conflicts',
    'products',
    'bound, ns',
  ];
  console.log(`| ${columns.join(' | ')} |\n|${columns.map(() => '---|').join('')}`);
  for (const row of rows) {
    const [moving, computing] = [row.plannedBytes / bandwidth, row.plannedOperations / peak];
    const bound = moving >= computing ? 'bytes' : 'operations';
    const cells = [
      row.subject,
      row.kernel,
      architectures.map((architecture) => registersOf(row.kernel, architecture) ?? '–').join(' / '),
      row.threads,
      row.sharedBytes,
      architectures.map((architecture) => resident(row, architecture)).join(' / '),
      row.plannedBytes,
      `× ${(row.bytes / row.plannedBytes).toFixed(2)}`,
      `× ${(row.sectors / Math.max(1, row.idealSectors)).toFixed(2)}`,
      `${row.sharedConflicts} of ${row.sharedRequests}`,
      row.matrixProducts,
      `${bound}, ${(1e9 * Math.max(moving, computing)).toFixed(1)}`,
    ];
    console.log(`| ${cells.join(' | ')} |`);
  }
  printMeasured(new URL('results/', import.meta.url));
}
