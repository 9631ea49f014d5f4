/**
 * Time and memory of compressing one layer of OLMoE's shape (64 experts of 2048 × 1024, top-8): a model of one layer with random weights
 * is written, and each row runs in a process of its own, which is watched from here.
 *
 *   node --import=tsx bench/compression-layer.ts [--folder DIR] [--tokens 4096] [--threads 2] [--json] [row …]
 *
 * A row of steps times each step of a recipe on the entered layer, as `compress` runs it; a row `compress …` is the whole of it. memory:
 * the most anonymous memory beyond that of the process before it opened the model, in layers of 16 bits (805 MB). Mapped pages of
 * the model's file, which the system takes back when it needs them, are not in it; peak RSS has them.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { layerBytes, writeLayerModel } from './compression/layer-model.ts';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    folder: { type: 'string' },
    tokens: { type: 'string', default: '4096' },
    threads: { type: 'string', default: '2' },
    json: { type: 'boolean', default: false },
  },
});

const all = [
  'merge 32',
  'merge 8',
  'svd 32',
  'svd 8',
  'gptq',
  'slim',
  'awq',
  'delta',
  'statistics',
  'compress merge 8',
  'compress gptq',
  'compress slim',
  'compress neurons 32',
];

interface Watched {
  readonly name: string;
  /** Wall and processor seconds of each step. */
  readonly steps: readonly { readonly step: string; readonly seconds: number; readonly processor: number }[];
  /** Bytes. */
  readonly anonymous: number;
  readonly resident: number;
}

async function run(name: string, folder: string): Promise<Watched> {
  const program = new URL('./compression/layer-row.ts', import.meta.url).pathname;
  const args = ['--import=tsx', program, folder, options.threads, name];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const steps: Watched['steps'][number][] = [];
  let [base, most] = [0, 0];
  const timer = setInterval(() => {
    most = Math.max(most, statusOf(child).RssAnon ?? 0);
  }, 5);
  let [text, resident] = ['', 0];
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const line = JSON.parse(text.slice(0, end));
      text = text.slice(end + 1);
      if (line.base) base = line.base;
      else if (line.peak) resident = line.peak;
      else steps.push(line);
    }
  });
  const code = await new Promise((done) => child.on('close', done));
  clearInterval(timer);
  if (code !== 0) throw new Error(`${name}: exit code ${code}`);
  return { name, steps, anonymous: most - base, resident };
}

/** Bytes of the fields of /proc/PID/status that are sizes. */
function statusOf({ pid }: ChildProcess): Record<string, number> {
  const path = `/proc/${pid}/status`;
  if (!existsSync(path)) return {};
  const fields = readFileSync(path, 'utf8').matchAll(/^(\w+):\s+(\d+) kB$/gm);
  return Object.fromEntries(Array.from(fields, ([, name, kilobytes]) => [name, Number(kilobytes) * 1024]));
}

const folder = options.folder ?? (await mkdtemp(join(tmpdir(), 'node-moe-layer-')));
try {
  if (!existsSync(join(folder, 'config.json'))) await writeLayerModel(folder, Number(options.tokens));
  const chosen = positionals.length > 0 ? positionals : all;
  if (!options.json) process.stdout.write('| row | s (processor s) | memory | peak RSS, GB |\n|---|---|---|---|\n');
  for (const name of chosen) {
    const row = await run(name, folder);
    const times = row.steps.map(
      ({ step, seconds, processor }) => `${step} ${seconds.toFixed(1)} (${processor.toFixed(1)})`,
    );
    const cells = [name, times.join(', '), (row.anonymous / layerBytes).toFixed(2), (row.resident / 1e9).toFixed(2)];
    process.stdout.write(options.json ? `${JSON.stringify(row)}\n` : `| ${cells.join(' | ')} |\n`);
  }
} finally {
  if (!options.folder) await rm(folder, { recursive: true, force: true });
}
