import { Command } from 'commander';
import { MoeError } from '../errors.ts';
import type { CacheDtype } from '../model/kv-cache.ts';
import { Model } from '../model/model.ts';
import type { WeightFormat } from '../weight/format.ts';
import { abortOnInterrupt } from './interrupt.ts';
import {
  type CommonOptions,
  cacheOption,
  deviceOption,
  nonNegative,
  nonNegativeInteger,
  openChosenDevice,
  positiveInteger,
  share,
  weightsOption,
  withCommonOptions,
} from './options.ts';
import { Progress, printJson } from './output.ts';

interface GenerateOptions extends CommonOptions {
  prompt: string;
  maxTokens: number;
  temperature: number;
  topP: number;
  seed: number;
  device: string;
  weights?: WeightFormat;
  cache: CacheDtype;
}

/** `node-moe generate`: continues a prompt, streamed to stdout. */
export function generateCommand(): Command {
  return withCommonOptions(new Command('generate'))
    .description('continue a prompt')
    .argument('<model>', 'model folder')
    .requiredOption('--prompt <text>', 'text to continue')
    .option('--max-tokens <count>', 'tokens to generate at most', positiveInteger, 64)
    .option('--temperature <value>', '0: always the most likely token', nonNegative, 0)
    .option('--top-p <share>', 'sample from the most likely tokens that hold this share', share, 1)
    .option('--seed <number>', 'seed of the sampling', nonNegativeInteger, 0)
    .addOption(deviceOption())
    .addOption(weightsOption())
    .addOption(cacheOption())
    .addHelpText('after', '\nExample:\n  $ node-moe generate ./model --prompt "interface " --max-tokens 40')
    .action(generate);
}

async function generate(folder: string, options: GenerateOptions): Promise<void> {
  const { prompt, maxTokens, temperature, topP, seed, weights, cache, json } = options;
  if (prompt === '') refusePrompt();
  const progress = new Progress({ quiet: json === true });
  const signal = abortOnInterrupt();
  await using device = await openChosenDevice(options);
  await using model = await Model.open(folder, {
    device,
    weights,
    cache,
    signal,
    onProgress: progress.loading(folder),
  });
  progress.end();
  const promptIds = model.tokenizer.encode(prompt);
  if (promptIds.length === 0) refusePrompt();
  const write = (text: string): void => {
    if (!json) process.stdout.write(text);
  };
  // The figures of --json are those of a warm model: programs are compiled and memory touched by two tokens before.
  if (json && promptIds.length + 2 <= model.config.context) {
    for await (const _ of model.generate(promptIds.subarray(-512), { maxTokens: 2, signal }));
  }
  const ids: number[] = [];
  let text = '';
  const started = performance.now();
  let first = started;
  try {
    for await (const piece of model.generate(promptIds, { maxTokens, temperature, topP, seed, signal })) {
      if (ids.length === 0) {
        first = performance.now();
        write(prompt);
      }
      ids.push(piece.id);
      text += piece.text;
      write(piece.text);
    }
  } finally {
    if (ids.length > 0) write('\n');
  }
  const ended = performance.now();
  const prefillTokensPerSecond = promptIds.length / ((first - started) / 1000);
  const decodeTokensPerSecond = ids.length > 1 ? (ids.length - 1) / ((ended - first) / 1000) : 0;
  if (json) {
    printJson({ text, ids, promptTokens: promptIds.length, prefillTokensPerSecond, decodeTokensPerSecond });
    return;
  }
  // stdout holds the text alone.
  const speed = `prefill ${prefillTokensPerSecond.toFixed(0)} and decode ${decodeTokensPerSecond.toFixed(0)} tokens/s`;
  process.stderr.write(`\n${ids.length} tokens, ${speed}\n`);
}

function refusePrompt(): never {
  const received = 'an empty text';
  throw new MoeError('INVALID_ARGUMENT', { argument: 'prompt', expected: 'at least one token', received });
}
