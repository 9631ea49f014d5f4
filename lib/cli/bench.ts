import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { attentionGroups } from '../bench/attention.ts';
import { compareRows, readRows } from '../bench/compare.ts';
import type { NamedFormat } from '../bench/data.ts';
import { denseGroups } from '../bench/dense.ts';
import { expertGroups } from '../bench/experts.ts';
import { LimitMeter } from '../bench/limits.ts';
import { modelRows } from '../bench/model.ts';
import { operationGroups, routingGroups } from '../bench/operations.ts';
import { partGroups } from '../bench/parts.ts';
import { writeRandomModel } from '../bench/random-model.ts';
import { type Group, type Timed, timeGroups } from '../bench/rows.ts';
import { type BenchShape, benchShape, type OwnSizes, shapeNames } from '../bench/shapes.ts';
import { unreadable } from '../checkpoint/files.ts';
import type { Device } from '../device/device.ts';
import { type CacheDtype, cacheDtypes } from '../model/kv-cache.ts';
import { Model } from '../model/model.ts';
import type { ActivationMode } from '../weight/format.ts';
import { type ReportOptions, report } from './bench-report.ts';
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

interface BenchOptions extends CommonOptions, ReportOptions, OwnSizes {
  shape: string[];
  tokens: number[];
  weights: NamedFormat[];
  activation?: ActivationMode;
  rounds?: number;
  device: string;
  isa?: string;
  warm?: boolean;
  in?: number;
  out?: number;
  rank: number;
  keys: number;
}

interface ModelOptions extends Omit<BenchOptions, 'shape'> {
  shape: string;
  layers: number;
}

type Groups = (device: Device, shape: BenchShape, options: BenchOptions) => Promise<Group[]> | Group[];

interface Work {
  readonly text: string;
  readonly shape: string;
  readonly tokens: string;
  /** Absent: it has no formats. */
  readonly weights?: string;
  readonly groups: Groups;
}

const works: Readonly<Record<string, Work>> = {
  dense: {
    text: 'one linear layer, hidden → intermediate',
    shape: 'mixtral-8x7b',
    tokens: '1,8,64,512',
    weights: 'f32,bf16,int8,int4,int4:128:symmetric',
    groups: (device, shape, { in: width, out, activation: mode, warm = false, ...options }) =>
      denseGroups(device, shape.name, {
        ...options,
        in: width ?? shape.hidden,
        out: out ?? shape.intermediate,
        mode,
        warm,
      }),
  },
  experts: {
    text: 'the experts of a layer with their routing: route, gate|up, down, combine',
    shape: 'qwen3-30b-a3b',
    tokens: '1,8,64,512',
    weights: 'bf16,int8,int4:128:symmetric',
    groups: (device, shape, { activation: mode, warm = false, ...options }) =>
      expertGroups(device, shape, { ...options, mode, warm }),
  },
  routing: {
    text: 'the choice of experts, the plan of their rows, and the way back to tokens',
    shape: 'qwen3-30b-a3b',
    tokens: '1,8,64,512',
    groups: (device, shape, { tokens, warm = false }) => routingGroups(device, shape, tokens, warm),
  },
  lowrank: {
    text: 'expert banks of low-rank factors and kept rows, beside the plain one',
    shape: 'olmoe',
    tokens: '1,8,64,512',
    weights: 'int4:128:symmetric,bf16',
    groups: (device, shape, { activation: mode, warm = false, ...options }) =>
      partGroups(device, 'lowrank', shape, { ...options, mode, warm }),
  },
  sparse: {
    text: 'expert banks of n:m sparse values, beside the plain one',
    shape: 'olmoe',
    tokens: '1,8,64,512',
    weights: 'int4:128:symmetric,bf16',
    groups: (device, shape, { activation: mode, warm = false, ...options }) =>
      partGroups(device, 'sparse', shape, { ...options, mode, warm }),
  },
  attention: {
    text: 'attention to a cache, which --weights names the dtypes of',
    shape: 'qwen3-30b-a3b',
    tokens: '1,512',
    weights: 'f32,bf16',
    groups: (device, shape, { tokens, keys, weights, warm = false }) =>
      attentionGroups(device, shape, { tokens, keys, caches: weights.map(cacheDtype), warm }),
  },
  operations: {
    text: 'every other operation of a decoder',
    shape: 'qwen3-30b-a3b',
    tokens: '4096',
    groups: (device, shape, { tokens, warm = false }) => operationGroups(device, shape, tokens, warm),
  },
};

function cacheDtype({ text, format: { format } }: NamedFormat): CacheDtype {
  const found = cacheDtypes.find((dtype) => dtype === format);
  if (found) return found;
  throw new InvalidArgumentError(`expected a cache of ${cacheDtypes.join(', ')}, got ${text}`);
}

/** `node-moe bench`: what the kernels reach of the limits measured in the same run. */
export function benchCommand(): Command {
  const bench = new Command('bench').description('measure kernels against the limits of this machine');
  for (const [name, work] of Object.entries(works))
    bench.addCommand(workCommand(name, work), { isDefault: name === 'dense' });
  return bench.addCommand(modelCommand()).addCommand(compareCommand()).addHelpText('after', examples);
}

const examples = `
Example:
  $ node-moe bench dense --weights int8,int4 --tokens 1,512 --json
  $ node-moe bench experts --shape olmoe,mixtral-8x7b --weights int4:128:symmetric --html roofline.html
  $ node-moe bench compare before.json after.json`;

function withBenchOptions(command: Command): Command {
  return withCommonOptions(command)
    .option(
      '--rounds <count>',
      'timed calls a row; the median counts (default: as many as fit about half a second)',
      positiveInteger,
    )
    .addOption(deviceOption())
    .option('--isa <name>', 'force an instruction set that doctor lists')
    .option('--html <file>', 'write the roofline as a page');
}

function withSizes(command: Command): Command {
  for (const size of ['hidden', 'intermediate', 'experts', 'top-k', 'heads', 'kv-heads', 'head-dim']) {
    command.option(`--${size} <count>`, 'in place of that of the shape', positiveInteger);
  }
  return command;
}

function ownSizes({ hidden, intermediate, experts, topK, heads, kvHeads, headDim }: OwnSizes): OwnSizes {
  return { hidden, intermediate, experts, topK, heads, kvHeads, headDim };
}

function workCommand(name: string, { text, shape, tokens, weights, groups }: Work): Command {
  const command = withBenchOptions(new Command(name))
    .description(text)
    .addOption(
      new Option('--shape <list>', `models, comma-separated: ${shapeNames.join(', ')}`)
        .argParser((list) => list.split(','))
        .default([shape], shape),
    )
    .addOption(
      new Option('--tokens <list>', 'tokens a call').argParser(integerList).default(integerList(tokens), tokens),
    )
    .addOption(new Option('--cold', 'weights or data come from memory (default)').conflicts('warm'))
    .option('--warm', 'the same weights or data again and again; memory is then no limit')
    .addHelpText('after', examples);
  if (weights) {
    command.addOption(
      new Option('--weights <list>', 'formats, comma-separated')
        .argParser(formatList)
        .default(formatList(weights), weights),
    );
    if (name !== 'attention') {
      command.addOption(
        new Option('--activation <mode>', 'what layers do with their input under integer weights').choices([
          'auto',
          'exact',
          'int8',
        ]),
      );
    }
  }
  if (name === 'dense') {
    command.option('--in <count>', 'inputs (default: hidden)', positiveInteger);
    command.option('--out <count>', 'outputs (default: intermediate)', positiveInteger);
  }
  if (name === 'lowrank') command.option('--rank <count>', 'of the factors', positiveInteger, 32);
  if (name === 'attention') command.option('--keys <count>', 'keys in the cache', positiveInteger, 2048);
  return withSizes(command).action((options: BenchOptions) => benchWork(options, groups));
}

export function formatList(text: string): NamedFormat[] {
  return text.split(',').map((name) => ({ text: name, format: weightFormat(name) }));
}

async function benchWork(options: BenchOptions, groupsOf: Groups): Promise<void> {
  const { json, shape: names, warm = false, rounds } = options;
  const shapes = names.map((name) => benchShape(name, ownSizes(options)));
  const progress = new Progress({ quiet: json === true });
  await using device = await openChosenDevice(options);
  const meter = new LimitMeter(() => device.limits());
  const groups: Group[] = [];
  for (const shape of shapes) groups.push(...(await groupsOf(device, shape, options)));
  const onGroup = ({ work, shape }: Group, index: number): void =>
    progress.update(`bench ${work} ${shape}`, index, groups.length);
  const timed = await timeGroups(groups, meter, { rounds, onGroup });
  progress.end();
  await report(device, meter.limits, timed, { ...options, warm });
}

function modelCommand(): Command {
  return withSizes(withBenchOptions(new Command('model')))
    .description('a whole model: prefill of many tokens, decoding of one')
    .argument('[folder]', 'model folder; without one, random weights of the shape')
    .option('--shape <name>', 'qwen3-30b-a3b, olmoe or mixtral-8x7b', 'olmoe')
    .option('--layers <count>', 'layers of random weights', positiveInteger, 4)
    .addOption(
      new Option('--tokens <list>', '1: a token decoded; others: a prompt')
        .argParser(integerList)
        .default([1, 512], '1,512'),
    )
    .option('--weights <list>', 'formats of the expert matrices, comma-separated (default: as stored)', formatList)
    .addHelpText('after', '\nExample:\n  $ node-moe bench model ./model --weights int8,int4 --tokens 1,512')
    .action(benchModel);
}

async function benchModel(given: string | undefined, options: ModelOptions): Promise<void> {
  const { json, tokens, rounds, shape, layers } = options;
  const formats = options.weights ?? [{ text: 'stored', format: undefined }];
  const progress = new Progress({ quiet: json === true });
  const scratch = given === undefined ? await mkdtemp(join(tmpdir(), 'node-moe-bench-')) : undefined;
  const folder = given ?? (scratch as string);
  const made = benchShape(shape, ownSizes(options));
  const name = given ?? `${made.name}, ${layers} layers`;
  try {
    if (scratch !== undefined) {
      progress.update('write random weights', 0, 1);
      await writeRandomModel(scratch, made, layers);
    }
    await using device = await openChosenDevice(options);
    const meter = new LimitMeter(() => device.limits());
    const timed: Timed[] = [];
    for (const [index, { text, format }] of formats.entries()) {
      progress.update(`bench model ${name}`, index, formats.length);
      await using model = await Model.open(folder, { device, weights: format });
      timed.push(...(await modelRows(model, name, { text, format }, tokens, { rounds }, meter)));
    }
    progress.end();
    await report(device, meter.limits, timed, { ...options, warm: false });
  } finally {
    if (scratch !== undefined) await rm(scratch, { recursive: true });
  }
}

function compareCommand(): Command {
  return new Command('compare')
    .description('two files of --json side by side')
    .argument('<before>', 'file')
    .argument('<after>', 'file')
    .option('--json', 'print one JSON document on stdout and nothing else there')
    .addHelpText('after', '\nExample:\n  $ node-moe bench compare before.json after.json')
    .action(benchCompare);
}

async function benchCompare(before: string, after: string, { json }: { json?: boolean }): Promise<void> {
  const [first = [], second = []] = await Promise.all(
    [before, after].map(async (file) => {
      const text = await readFile(file, 'utf8').catch((cause: unknown) => {
        throw unreadable(file, cause);
      });
      return readRows(text, file);
    }),
  );
  const rows = compareRows(first, second);
  if (json) {
    printJson({ before, after, rows });
    return;
  }
  const share = (value: number | null): string => (value === null ? '-' : `${(100 * value).toFixed(0)} %`);
  const cells = rows.map((row) => [
    `${row.work} ${row.shape}`,
    row.weights,
    String(row.tokens),
    row.before.ms.toPrecision(4),
    row.after.ms.toPrecision(4),
    row.ratio.toFixed(2),
    share(row.before.share),
    share(row.after.share),
  ]);
  print(
    table(
      ['row', 'weights', 'tokens', 'ms before', 'ms after', 'after / before', 'share before', 'share after'],
      cells,
    ),
  );
}
