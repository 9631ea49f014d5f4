import { Command, Option } from 'commander';
import type { NativeLimits } from '../addon.ts';
import type { Device } from '../device/device.ts';
import { Graph } from '../graph/graph.ts';
import { type ActivationMode, isInteger, type WeightFormat } from '../weight/format.ts';
import { Weight } from '../weight/weight.ts';
import {
  type CommonOptions,
  deviceOption,
  integerList,
  openChosenDevice,
  positiveInteger,
  weightFormat,
  withCommonOptions,
} from './options.ts';
import { Progress, print, printJson, table } from './output.ts';

interface BenchOptions extends CommonOptions {
  in: number;
  out: number;
  tokens: number[];
  weights: Named[];
  activation: ActivationMode;
  rounds: number;
  device: string;
}

interface Named {
  text: string;
  format: WeightFormat;
}

interface Run {
  weights: string;
  tokens: number;
  milliseconds: number;
  /** Of the weights, inputs and outputs. */
  bytes: number;
  operations: number;
  units: 'f32' | 'int8';
}

interface Row {
  weights: string;
  tokens: number;
  milliseconds: number;
  gigabytesPerSecond: number;
  gigaoperationsPerSecond: number;
  /** Time at the binding limit over the time taken; null where the device's limits are not known. */
  share: number | null;
  limit: 'memory' | 'arithmetic' | null;
}

/** Bytes of weights that a row goes through before it comes back to the first: more than last-level caches hold. */
const coldBytes = 256e6;

const example = '\nExample:\n  $ node-moe bench dense --weights int8,int4 --tokens 1,512 --json';

/** `node-moe bench dense`: one linear layer over weights that do not fit the caches, against the limits measured in the same run. */
export function benchCommand(): Command {
  const dense = withCommonOptions(new Command('dense'))
    .description('one linear layer, weights beyond the caches')
    .option('--in <count>', 'inputs', positiveInteger, 4096)
    .option('--out <count>', 'outputs', positiveInteger, 14336)
    .option('--tokens <list>', 'tokens a call, comma-separated', integerList, [1, 8, 64, 512])
    .addOption(
      new Option('--weights <list>', 'formats, comma-separated')
        .argParser(formatList)
        .default(formatList(standard), standard),
    )
    .addOption(
      new Option('--activation <mode>', 'what the layer does with its input under integer weights')
        .choices(['auto', 'exact', 'int8'])
        .default('auto'),
    )
    .option('--rounds <count>', 'timed calls a row; the median counts', positiveInteger, 7)
    .addOption(deviceOption())
    .addHelpText('after', example)
    .action(benchDense);
  return new Command('bench')
    .description('measure kernels against the limits of this machine')
    .addCommand(dense, { isDefault: true })
    .addHelpText('after', example);
}

const standard = 'f32,bf16,int8,int4';

function formatList(text: string): Named[] {
  return text.split(',').map((name) => ({ text: name, format: weightFormat(name) }));
}

async function benchDense(options: BenchOptions): Promise<void> {
  const { in: inputs, out: outputs, weights: formats, json } = options;
  const progress = new Progress({ quiet: json === true });
  await using device = await openChosenDevice(options);
  progress.update('measure the limits', 0, 1);
  const before = await device.limits();
  const runs: Run[] = [];
  for (const [index, named] of formats.entries()) {
    progress.update('bench dense', index, formats.length);
    for (const run of await benchFormat(device, named, options)) runs.push(run);
  }
  // Measured before and after: what slowed the machine down for one of them is no limit.
  const limits = larger(before, await device.limits());
  const rows = runs.map((run) => compare(run, limits));
  progress.end();
  if (json) {
    const machine = { device: device.name, ...device.description };
    printJson({ machine, limits, work: 'dense', in: inputs, out: outputs, rows });
    return;
  }
  const giga = (rate: number): string => (rate > 0 ? (rate / 1e9).toFixed(1) : 'unknown');
  const { readBytesPerSecond: read, f32OperationsPerSecond: f32, int8OperationsPerSecond: int8 } = limits;
  print(`${inputs} → ${outputs}; limits: read ${giga(read)} GB/s, f32 ${giga(f32)} and int8 ${giga(int8)} GOP/s\n`);
  const cells = rows.map((row) => [
    row.weights,
    String(row.tokens),
    row.milliseconds.toFixed(3),
    row.gigabytesPerSecond.toFixed(1),
    row.gigaoperationsPerSecond.toFixed(0),
    row.share === null ? '-' : `${(100 * row.share).toFixed(0)} % of ${row.limit}`,
  ]);
  print(table(['weights', 'tokens', 'ms', 'GB/s', 'GOP/s', 'share of limit'], cells));
}

async function benchFormat(device: Device, named: Named, options: BenchOptions): Promise<Run[]> {
  const { in: inputs, out: outputs, tokens: counts, activation, rounds } = options;
  const { text, format } = named;
  const weights = [await randomWeight(device, inputs, outputs, format)];
  const { bytes: weightBytes } = weights[0] as Weight;
  try {
    while (weights.length * weightBytes < coldBytes && weights.length < rounds + 1) {
      weights.push(await randomWeight(device, inputs, outputs, format));
    }
    const integer = isInteger(format);
    const mode = integer ? activation : 'exact';
    return counts.map((tokens) => ({
      weights: text,
      tokens,
      milliseconds: medianRun(device, weights, tokens, mode, rounds),
      bytes: weightBytes + 4 * tokens * (inputs + outputs),
      operations: 2 * tokens * inputs * outputs,
      // 'auto' takes the int8 units wherever the weights allow it.
      units: mode === 'exact' ? 'f32' : 'int8',
    }));
  } finally {
    for (const weight of weights) weight.dispose();
  }
}

/** The run against the limit that binds it: its bytes, or its operations on the units that it uses. */
function compare({ weights, tokens, milliseconds, bytes, operations, units }: Run, limits: NativeLimits): Row {
  const peak = units === 'int8' ? limits.int8OperationsPerSecond : limits.f32OperationsPerSecond;
  const known = limits.readBytesPerSecond > 0 && peak > 0;
  const [byMemory, byArithmetic] = [bytes / limits.readBytesPerSecond, operations / peak];
  return {
    weights,
    tokens,
    milliseconds,
    gigabytesPerSecond: bytes / milliseconds / 1e6,
    gigaoperationsPerSecond: operations / milliseconds / 1e6,
    share: known ? (1000 * Math.max(byMemory, byArithmetic)) / milliseconds : null,
    limit: known ? (byMemory > byArithmetic ? 'memory' : 'arithmetic') : null,
  };
}

function larger(a: NativeLimits, b: NativeLimits): NativeLimits {
  return {
    readBytesPerSecond: Math.max(a.readBytesPerSecond, b.readBytesPerSecond),
    f32OperationsPerSecond: Math.max(a.f32OperationsPerSecond, b.f32OperationsPerSecond),
    int8OperationsPerSecond: Math.max(a.int8OperationsPerSecond, b.int8OperationsPerSecond),
    bf16OperationsPerSecond: Math.max(a.bf16OperationsPerSecond, b.bf16OperationsPerSecond),
  };
}

async function randomWeight(device: Device, inputs: number, outputs: number, format: WeightFormat): Promise<Weight> {
  const rows = Math.max(1, Math.min(outputs, Math.floor(2 ** 22 / inputs)));
  const values = Float32Array.from({ length: rows * inputs }, () => Math.random() - 0.5);
  const pieces = [];
  for (let row = 0; row < outputs; row += rows) {
    const count = Math.min(rows, outputs - row);
    const source = values.subarray(0, count * inputs);
    pieces.push({ part: 'base', slot: 0, row, rows: count, form: { store: 'f32' }, values: source } as const);
  }
  return Weight.load(device, { in: inputs, out: outputs, format }, pieces);
}

/** Milliseconds of a call, the weights taken in turn so that each is cold. */
function medianRun(
  device: Device,
  weights: readonly Weight[],
  tokens: number,
  mode: ActivationMode,
  rounds: number,
): number {
  const { in: inputs, out: outputs } = (weights[0] as Weight).spec;
  const programs = weights.map((weight) => {
    const graph = new Graph(device);
    const x = graph.input('x', 'f32', ['tokens', inputs]);
    return graph.output('y', graph.linear(x, weight, { mode })).compile({ tokens });
  });
  const x = Float32Array.from({ length: tokens * inputs }, () => Math.random() - 0.5);
  const into = { y: new Float32Array(tokens * outputs) };
  const times: number[] = [];
  for (let round = -1; round < rounds; round++) {
    const started = performance.now();
    programs[(round + 1) % programs.length]?.runSync({ x }, { into });
    // The first call also touches new memory.
    if (round >= 0) times.push(performance.now() - started);
  }
  for (const program of programs) program.dispose();
  return times.sort((a, b) => a - b)[rounds >> 1] as number;
}
