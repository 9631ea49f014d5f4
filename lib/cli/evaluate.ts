import { Command } from 'commander';
import { readText } from '../checkpoint/text-file.ts';
import type { Device } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import type { CacheDtype } from '../model/kv-cache.ts';
import { Model } from '../model/model.ts';
import { formatName, type WeightFormat } from '../weight/format.ts';
import { abortOnInterrupt } from './interrupt.ts';
import {
  type CommonOptions,
  cacheOption,
  deviceOption,
  openChosenDevice,
  positiveInteger,
  weightsOption,
  withCommonOptions,
} from './options.ts';
import { megabytes, Progress, print, printJson, table } from './output.ts';

interface EvaluateOptions extends CommonOptions {
  text: string[];
  window: number;
  windows?: number;
  device: string;
  weights?: WeightFormat;
  cache: CacheDtype;
}

/** `node-moe evaluate`: mean negative log-likelihood of texts under models, window by window. */
export function evaluateCommand(): Command {
  return withCommonOptions(new Command('evaluate'))
    .description('mean negative log-likelihood of texts, in nats a token')
    .argument('<model...>', 'model folders')
    .requiredOption('--text <file...>', 'text files (.gz is unpacked)')
    .option(
      '--window <tokens>',
      'tokens a window; each is scored on its own, all but its first token',
      positiveInteger,
      256,
    )
    .option('--windows <count>', 'only the first so many windows of each text', positiveInteger)
    .addOption(deviceOption())
    .addOption(weightsOption())
    .addOption(cacheOption())
    .addHelpText(
      'after',
      '\nExample:\n  $ node-moe evaluate ./model ./model-int4 --text heldout.txt --windows 24 --json',
    )
    .action(evaluate);
}

interface Row {
  model: string;
  device: string;
  weights: string;
  tokens: number;
  nll: number;
  perplexity: number;
  bytes: { disk: number; memory: number };
  tokensPerSecond: number;
  texts: Record<string, { tokens: number; nll: number }>;
}

async function evaluate(folders: string[], options: EvaluateOptions): Promise<void> {
  const progress = new Progress({ quiet: options.json === true });
  const signal = abortOnInterrupt();
  const files = [...new Set(options.text)];
  const texts = new Map<string, string>();
  for (const file of files) texts.set(file, await readText(file));
  await using device = await openChosenDevice(options);
  const models: Row[] = [];
  for (const folder of folders) models.push(await evaluateModel(folder, texts, device, options, { progress, signal }));
  progress.end();
  if (options.json) {
    printJson({ models });
    return;
  }
  const rows = models.map((model) => [
    model.model,
    model.weights,
    String(model.tokens),
    model.nll.toFixed(4),
    model.perplexity.toFixed(3),
    megabytes(model.bytes.disk),
    megabytes(model.bytes.memory),
    model.tokensPerSecond.toFixed(0),
  ]);
  print(table(['model', 'weights', 'tokens', 'NLL', 'perplexity', 'disk', 'memory', 'tokens/s'], rows));
}

async function evaluateModel(
  folder: string,
  texts: ReadonlyMap<string, string>,
  device: Device,
  options: EvaluateOptions,
  { progress, signal }: { progress: Progress; signal: AbortSignal },
): Promise<Row> {
  const { window, windows, weights, cache } = options;
  await using model = await Model.open(folder, {
    device,
    weights,
    cache,
    signal,
    onProgress: progress.loading(folder),
  });
  const perText: Row['texts'] = {};
  let [tokens, sum, seconds] = [0, 0, 0];
  for (const [file, text] of texts) {
    const ids = model.tokenizer.encode(text);
    if (ids.length < window) {
      const expected = `a text of at least one window of ${window} tokens`;
      throw new MoeError('INVALID_ARGUMENT', { argument: file, expected, received: `${ids.length} tokens` });
    }
    const started = performance.now();
    const result = await model.evaluate(ids, {
      window,
      windows,
      signal,
      onProgress: ({ done, total }) => progress.update(`evaluate ${folder} on ${file}`, done, total),
    });
    seconds += (performance.now() - started) / 1000;
    perText[file] = { tokens: result.tokens, nll: result.nll };
    tokens += result.tokens;
    sum += result.nll * result.tokens;
  }
  const nll = sum / tokens;
  return {
    model: folder,
    device: device.name,
    weights: weights ? formatName(weights) : 'as stored',
    tokens,
    nll,
    perplexity: Math.exp(nll),
    bytes: { disk: model.bytes, memory: model.memory().total },
    tokensPerSecond: tokens / seconds,
    texts: perText,
  };
}
