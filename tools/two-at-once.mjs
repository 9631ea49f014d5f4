/** Runs test programs, two at once, since each is mostly a single thread. */
import { spawn } from 'node:child_process';

/** A run's exit status and what it printed. */
function finished({ command, args, cwd, env }) {
  const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  const output = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => output.push(chunk));
  return new Promise((done) => {
    child.on('error', (error) => done({ status: 1, output: `${command}: ${error.message}\n` }));
    child.on('close', (status, signal) => {
      if (signal) output.push(Buffer.from(`${command} ended by ${signal}\n`));
      done({ status: status ?? 1, output: Buffer.concat(output) });
    });
  });
}

/**
 * Runs each { command, args, cwd, env } and prints what it printed once it has ended. Where one fails, this process will exit
 * with its status.
 */
export async function twoAtOnce(runs) {
  const left = [...runs];
  async function next() {
    for (let run = left.shift(); run; run = left.shift()) {
      const { status, output } = await finished(run);
      process.stdout.write(output);
      if (status !== 0) process.exitCode = status;
    }
  }
  await Promise.all([next(), next()]);
}
