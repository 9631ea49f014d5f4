#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { benchCommand } from './bench.ts';
import { compareCommand } from './compare.ts';
import { compressCommand } from './compress.ts';
import { doctorCommand } from './doctor.ts';
import { evaluateCommand } from './evaluate.ts';
import { generateCommand } from './generate.ts';
import { inspectCommand } from './inspect.ts';
import { quietOnClosedPipe, reportFailure } from './output.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

// Usage errors are thrown, so that they read like every other failure; subcommands inherit that only where told to.
const program = new Command('node-moe').exitOverride().configureOutput({ outputError: () => {} });
program
  .description('Compress sparse mixture-of-experts models and run them from Node.js.')
  .version(version)
  .addHelpText('after', '\nExample:\n  $ node-moe evaluate ./model --text heldout.txt');
const commands = [
  doctorCommand(),
  inspectCommand(),
  evaluateCommand(),
  compareCommand(),
  generateCommand(),
  compressCommand(),
  benchCommand(),
];
for (const command of commands) {
  program.addCommand(command.copyInheritedSettings(program));
  for (const inner of command.commands) inner.copyInheritedSettings(program);
}

quietOnClosedPipe();
try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = reportFailure(error);
}
