/**
 * CMake's compiler launcher for CUDA: runs nvcc as it is given and moves what `ptxas -v` says about each kernel from the
 * terminal to <object>.ptxas.txt. So an incremental build still knows the registers of what it did not compile again.
 */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';

const [compiler, ...args] = process.argv.slice(2);
const run = spawnSync(compiler, args, { encoding: 'utf8', stdio: ['ignore', 'inherit', 'pipe'], maxBuffer: 1 << 30 });
const statistics = /^ptxas info|^ {4}\d+ bytes (stack|gmem)/;
const lines = (run.stderr ?? '').split('\n');
process.stderr.write(lines.filter((line) => !statistics.test(line)).join('\n'));
if (run.error) process.stderr.write(`${run.error.message}\n`);
const object = args[args.indexOf('-o') + 1];
if (run.status === 0 && args.includes('-c') && object) {
  writeFileSync(
    `${object}.ptxas.txt`,
    lines
      .filter((line) => statistics.test(line))
      .map((line) => `${line}\n`)
      .join(''),
  );
}
process.exitCode = run.status ?? 1;
