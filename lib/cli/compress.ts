import { join } from 'node:path';
import { Command, Option } from 'commander';
import { readWhole } from '../checkpoint/files.ts';
import { parseObject } from '../checkpoint/json.ts';
import { type CompressOptions, compress as compressModel } from '../compress/compress.ts';
import { isRecipeName, recipeNames } from '../compress/recipe/presets.ts';
import { parseRecipe, type RecipeInput } from '../compress/recipe/schema.ts';
import { defaultRatios, sweep } from '../compress/sweep.ts';
import { MoeError } from '../errors.ts';
import type { WeightFormat } from '../weight/format.ts';
import { checkReport, writeReport } from './compress-report.ts';
import { abortOnInterrupt } from './interrupt.ts';
import {
  type CommonOptions,
  deviceOption,
  nonNegativeInteger,
  openChosenDevice,
  positiveInteger,
  ratio,
  ratioList,
  share,
  weightsOption,
  withCommonOptions,
} from './options.ts';
import { megabytes, Progress, print, printJson, table } from './output.ts';

interface CompressCommandOptions extends CommonOptions {
  out: string;
  recipe: string;
  groups?: number;
  rank?: number;
  rows?: number;
  neurons?: number;
  targetRatio?: number;
  statistics?: string;
  format?: 'huggingface';
  sweep?: number[] | true;
  text?: string;
  resume?: boolean;
  calibrate: string[];
  calibrationTokens?: number;
  recover?: string;
  weights?: WeightFormat;
  seed: number;
  report?: string;
  force?: boolean;
  device: string;
}

/** `node-moe compress`: writes a smaller model folder. */
export function compressCommand(): Command {
  return withCommonOptions(new Command('compress'))
    .description('make the experts of a model smaller and write a new model folder')
    .argument('<model>', 'model folder')
    .requiredOption('--out <folder>', 'new model folder')
    .option('--recipe <name or file>', `what to do: ${recipeNames.join(', ')}, or a JSON file of steps`, 'merge')
    .option(
      '--groups <count>',
      'groups of experts a layer, on average, or experts that stay: 1 … experts',
      positiveInteger,
    )
    .option('--rank <count>', 'rank of each factorized matrix', positiveInteger)
    .option('--rows <share>', 'share of rows kept whole beside the factors', share)
    .option('--neurons <share>', 'share of the neurons that stay', share)
    .option(
      '--target-ratio <ratio>',
      'choose the settings of a named recipe so that the experts take at most this share of their bytes in 16 bits',
      ratio,
    )
    .requiredOption(
      '--calibrate <file...>',
      'text files (.gz is unpacked), or safetensors files of token ids [windows, tokens]',
    )
    .option(
      '--calibration-tokens <count>',
      'draw windows of at most so many tokens (default: all windows)',
      positiveInteger,
    )
    .option('--statistics <file>', 'reuse the calibration statistics of the file, or write them there')
    .addOption(
      new Option(
        '--recover <method>',
        'refit of what a step breaks; none is the published form (default: least-squares)',
      ).choices(['least-squares', 'none']),
    )
    .addOption(weightsOption())
    .option('--seed <number>', 'seed of the draw of calibration windows', nonNegativeInteger, 0)
    .addOption(
      new Option(
        '--format <name>',
        'write a plain folder that other tools open, where it can say what was made',
      ).choices(['huggingface']),
    )
    .option(
      '--sweep [ratios]',
      `one folder in <out> for each target ratio, measured on --text (default: ${defaultRatios.join(',')})`,
      ratioList,
    )
    .option('--text <file>', 'held-out text of a sweep')
    .option('--report <file>', 'write a report: HTML, or all of its data where the name ends in .json')
    .option('--force', 'replace an existing model in the output folder')
    .option('--resume', 'go on with what a stopped run left in <out>.partial')
    .addOption(deviceOption())
    .addHelpText(
      'after',
      '\nExample:\n  $ node-moe compress ./model --out ./model-merged --groups 8 --calibrate text.txt --weights int4',
    )
    .action(compress);
}

async function compress(folder: string, options: CompressCommandOptions): Promise<void> {
  if (options.sweep !== undefined) return runSweep(folder, options);
  const { out, report, json } = options;
  if (report !== undefined) await checkReport(report);
  const progress = new Progress({ quiet: json === true });
  const signal = abortOnInterrupt();
  await using device = await openChosenDevice(options);
  const result = await compressModel(folder, {
    ...(await pick(options)),
    device,
    signal,
    onProgress: ({ phase, done, total }) => progress.update(phase, done, total),
  }).catch((error) => {
    throw pointIntoFile(error, options.recipe);
  });
  progress.end();
  const { recipe, layers, bytes, parameters, seconds } = result;
  if (report !== undefined) await writeReport(report, { source: folder, out }, result, device);
  if (json) {
    const { name, ...settings } = recipe;
    const decided = layers.map(({ similarity: _, ...layer }) => layer);
    printJson({ recipe: name, settings, layers: decided, bytes, parameters, seconds });
    return;
  }
  const rows = layers.map((layer) => [
    String(layer.layer),
    String(layer.experts),
    String(layer.groups),
    layer.labels.join(' '),
  ]);
  print(table(['layer', 'experts', 'groups', 'group of each expert'], rows));
  const sizes = `${megabytes(bytes.before)} → ${megabytes(bytes.after)}, ${parameters.before} → ${parameters.after} parameters`;
  print(`\n${out}: ${sizes}, ${seconds.toFixed(1)} s`);
}

/** `--sweep`: the table of its rows; the plot lies beside the folders. */
async function runSweep(folder: string, options: CompressCommandOptions): Promise<void> {
  const { sweep: ratios, text, json, out, report, format, targetRatio } = options;
  if (text === undefined) refuse('--text', 'a held-out text for --sweep', 'none');
  if (report !== undefined) refuse('--report', 'none with --sweep', report);
  if (format !== undefined) refuse('--format', 'none with --sweep', format);
  if (targetRatio !== undefined) refuse('--target-ratio', 'none with --sweep, which has its own', String(targetRatio));
  const progress = new Progress({ quiet: json === true });
  const signal = abortOnInterrupt();
  await using device = await openChosenDevice(options);
  const rows = await sweep(folder, {
    ...(await pick(options)),
    text,
    ...(ratios !== true && { ratios }),
    device,
    signal,
    onProgress: ({ phase, done, total }) => progress.update(phase, done, total),
  });
  progress.end();
  if (json) {
    printJson({ rows });
    return;
  }
  const cells = rows.map(({ model, target, ratio: got, bytes, nll }) => [
    model,
    target === undefined ? '' : String(target),
    got.toFixed(4),
    megabytes(bytes),
    nll.toFixed(4),
    Math.exp(nll).toFixed(3),
  ]);
  print(table(['model', 'target', 'ratio', 'disk', 'NLL', 'perplexity'], cells));
  print(`\n${join(out, 'frontier.svg')}`);
}

/** An error that points into the recipe, pointing into its file. */
function pointIntoFile(error: unknown, recipe: string): unknown {
  if (!(error instanceof MoeError) || isRecipeName(recipe) || !error.argument?.startsWith('recipe/')) return error;
  const { code, argument, expected, received } = error;
  return new MoeError(code, {
    argument: argument.replace('recipe', recipe),
    ...(expected !== undefined && { expected }),
    ...(received !== undefined && { received }),
    cause: error,
  });
}

function refuse(argument: string, expected: string, received: string): never {
  throw new MoeError('INVALID_ARGUMENT', { argument, expected, received });
}

/** A recipe file. Throws FILE_UNREADABLE, RECIPE_INVALID. */
async function readRecipe(file: string): Promise<RecipeInput> {
  return parseRecipe(parseObject(await readWhole(file, 1e6), 'RECIPE_INVALID', file), file);
}

/** The options that the library takes. */
async function pick(options: CompressCommandOptions): Promise<CompressOptions> {
  const { report: _, json: __, threads: ___, device: ____, sweep: _____, text: ______, recipe, ...given } = options;
  return { ...given, recipe: isRecipeName(recipe) ? recipe : await readRecipe(recipe) };
}
