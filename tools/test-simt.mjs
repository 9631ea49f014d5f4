/**
 * Builds the simt device and tests the CUDA kernels on it: conformance, golden models, traffic.
 *
 *   node tools/test-simt.mjs [--sanitize=thread] [MOCHA'S ARGUMENTS]
 *
 * Under the thread sanitizer, which sees a race between any two CUDA threads, only conformance runs, and two halves of it at
 * once where mocha is given no arguments. A race is printed and fails the run even where the results are right.
 */
import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const threads = process.argv.includes('--sanitize=thread');
const rest = process.argv.slice(2).filter((argument) => argument !== '--sanitize=thread');
const folder = join(root, threads ? 'build-simt-thread' : 'build-simt');

/** What starts Node under the sanitizer: its runtime must be loaded first, and at addresses that are not random. */
function underSanitizer() {
  const compiler = (process.env.CXX || 'g++').split(' ')[0];
  const runtime = execFileSync(compiler, ['-print-file-name=libtsan.so'], { encoding: 'utf8' }).trim();
  // What Node itself does with memory is not instrumented and would be half seen.
  const options = `ignore_noninstrumented_modules=1:exitcode=66 ${process.env.TSAN_OPTIONS ?? ''}`;
  return ['setarch', '-R', 'env', `LD_PRELOAD=${runtime}`, `TSAN_OPTIONS=${options}`];
}

/** Runs mocha; its exit status. */
function mocha(...more) {
  const tests = threads
    ? ['--no-config', '--timeout=120000', 'test/conformance/conformance.test.ts']
    : ['--config=.mocharc.device.json'];
  const [command, ...args] = [
    ...(threads ? underSanitizer() : []),
    process.execPath,
    '--expose-gc',
    '--import=tsx',
    join(root, 'node_modules/mocha/lib/cli/cli.js'),
    ...tests,
    ...more,
  ];
  const child = spawn(command, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, NODE_MOE_PREBUILD: folder, NODE_MOE_TEST_DEVICE: 'simt' },
  });
  return new Promise((done) => {
    child.on('error', (error) => {
      process.stderr.write(`test-simt: ${command}: ${error.message}\n`);
      done(1);
    });
    child.on('close', (status) => done(status ?? 1));
  });
}

const build = ['tools/build.mjs', '--simt', ...(threads ? ['--sanitize=thread'] : [])];
execFileSync(process.execPath, build, { cwd: root, stdio: 'inherit' });
// Kernels on floats and most of those on int8 take about as long; --invert is the other half, whatever the cases are named.
const runs =
  threads && rest.length === 0
    ? [mocha('--reporter=dot', '--grep=exact'), mocha('--reporter=dot', '--grep=exact', '--invert')]
    : [mocha(...rest)];
process.exitCode = Math.max(...(await Promise.all(runs)));
