/**
 * Builds the simt device and tests the CUDA kernels on it: conformance, golden models, traffic. Two parts run at once, since
 * each is a single thread; the output of the second follows that of the first.
 *
 *   node tools/test-simt.mjs [--sanitize=thread] [MOCHA'S ARGUMENTS]
 *
 * Under the thread sanitizer, which sees a race between any two CUDA threads, only conformance runs. A race is printed and
 * fails the run even where the results are right.
 */
import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const threads = process.argv.includes('--sanitize=thread');
const rest = process.argv.slice(2).filter((argument) => argument !== '--sanitize=thread');
const folder = join(root, threads ? 'build-simt-thread' : 'build-simt');
const conformance = 'test/conformance/*.test.ts';
/** Conformance in parts of about the same size: a process under the sanitizer grows with the fibers that it has seen. */
const cut = ['(?=.*exact)(?=.*int)', '(?=.*exact)(?!.*int)', '(?!.*exact)(?=.*linear)', '(?!.*exact)(?!.*linear)'];
const parts = threads
  ? cut.map((titles) => [`--grep=^${titles}`, conformance])
  : [[conformance, 'test/golden/families.test.ts'], ['test/gpu/*.test.ts']];

/** What starts Node under the sanitizer: its runtime must be loaded first, and at addresses that are not random. */
function underSanitizer() {
  const compiler = (process.env.CXX || 'g++').split(' ')[0];
  const runtime = execFileSync(compiler, ['-print-file-name=libtsan.so'], { encoding: 'utf8' }).trim();
  // What Node itself does with memory is not instrumented and would be half seen.
  const options = `ignore_noninstrumented_modules=1:exitcode=66 ${process.env.TSAN_OPTIONS ?? ''}`;
  return ['setarch', '-R', 'env', `LD_PRELOAD=${runtime}`, `TSAN_OPTIONS=${options}`];
}

/** Runs mocha over a part; its exit status and what it printed. */
function mocha(part) {
  const [command, ...args] = [
    ...(threads ? underSanitizer() : []),
    process.execPath,
    '--expose-gc',
    '--import=tsx',
    join(root, 'node_modules/mocha/lib/cli/cli.js'),
    '--no-config',
    '--timeout=120000',
    '--reporter=dot',
    ...rest,
    ...part,
  ];
  const child = spawn(command, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_MOE_PREBUILD: folder, NODE_MOE_TEST_DEVICE: 'simt' },
  });
  const output = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => output.push(chunk));
  return new Promise((done) => {
    child.on('error', (error) => done({ status: 1, output: `test-simt: ${command}: ${error.message}\n` }));
    child.on('close', (status, signal) => {
      if (signal) output.push(Buffer.from(`test-simt: ended by ${signal}\n`));
      done({ status: status ?? 1, output: Buffer.concat(output) });
    });
  });
}

const build = ['tools/build.mjs', '--simt', ...(threads ? ['--sanitize=thread'] : [])];
execFileSync(process.execPath, build, { cwd: root, stdio: 'inherit' });
while (parts.length > 0) {
  for (const run of parts.splice(0, 2).map(mocha)) {
    const { status, output } = await run;
    process.stdout.write(output);
    if (status !== 0) process.exitCode = status;
  }
}
