/**
 * The table of CUDA kernels: planned bytes and operations of each form on a small shape, what the simt device counted of it, and
 * the registers that `npm run check:cuda` holds them to. No time is measured: nothing here needs a GPU.
 *
 *   node --import=tsx bench/kernels.ts [--json]
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { openDevice } from '../lib/index.ts';
import { Kit, subjects } from './kernels/subjects.ts';
import { type KernelTraffic, traffic } from './kernels/traffic.ts';

const { values: options } = parseArgs({ options: { json: { type: 'boolean', default: false } } });
/** Of an H200, from its data sheet: bytes and bf16 operations a second. */
const [bandwidth, peak] = [4.8e12, 989e12];

type Registers = Record<string, { registers: Record<string, number> } | undefined>;
const registers = JSON.parse(
  readFileSync(new URL('../tools/cuda/registers.json', import.meta.url), 'utf8'),
) as Registers;
const registersOf = (kernel: string, architecture: string): number | undefined =>
  registers[`${kernel}_kernel`]?.registers[architecture];

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
    'planned bytes',
    'counted',
    'sectors',
    'conflicts',
    'products',
    'bound',
  ];
  console.log(`| ${columns.join(' | ')} |\n|${columns.map(() => '---|').join('')}`);
  for (const row of rows) {
    const bound = row.plannedBytes / bandwidth >= row.plannedOperations / peak ? 'bytes' : 'operations';
    const cells = [
      row.subject,
      row.kernel,
      `${registersOf(row.kernel, 'sm_80') ?? '–'} / ${registersOf(row.kernel, 'sm_90a') ?? '–'}`,
      row.plannedBytes,
      `× ${(row.bytes / row.plannedBytes).toFixed(2)}`,
      `× ${(row.sectors / Math.max(1, row.idealSectors)).toFixed(2)}`,
      `${row.sharedConflicts} of ${row.sharedRequests}`,
      row.matrixProducts,
      bound,
    ];
    console.log(`| ${cells.join(' | ')} |`);
  }
}
