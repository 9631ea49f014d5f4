/**
 * Builds the simt device and tests the CUDA kernels on it: conformance, golden models, traffic.
 *
 *   node tools/test-simt.mjs [--sanitize=thread | --skip-conformance] [MOCHA'S ARGUMENTS]
 *
 * Under the thread sanitizer, which sees a race between any two CUDA threads, only conformance runs. A race is printed and
 * fails the run even where the results are right. Who runs both need not run conformance twice.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { twoAtOnce } from './two-at-once.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const threads = process.argv.includes('--sanitize=thread');
const skip = process.argv.includes('--skip-conformance');
const rest = process.argv
  .slice(2)
  .filter((argument) => !['--sanitize=thread', '--skip-conformance'].includes(argument));
const folder = join(root, threads ? 'build-simt-thread' : 'build-simt');
const conformance = 'test/conformance/*.test.ts';
/** Conformance in parts of about the same size: a process under the sanitizer grows with the fibers that it has seen. */
const cut = ['(?=.*exact)(?=.*int)', '(?=.*exact)(?!.*int)', '(?!.*exact)(?=.*linear)', '(?!.*exact)(?!.*linear)'];
const parts = threads
  ? cut.map((titles) => [`--grep=^${titles}`, conformance])
  : [[...(skip ? [] : [conformance]), 'test/golden/families.test.ts'], ['test/gpu/*.test.ts']];

/** What starts Node under the sanitizer: its runtime must be loaded first, and at addresses that are not random. */
function underSanitizer() {
  const compiler = (process.env.CXX || 'g++').split(' ')[0];
  const runtime = execFileSync(compiler, ['-print-file-name=libtsan.so'], { encoding: 'utf8' }).trim();
  // What Node itself does with memory is not instrumented and would be half seen.
  const options = `ignore_noninstrumented_modules=1:exitcode=66 ${process.env.TSAN_OPTIONS ?? ''}`;
  return ['setarch', '-R', 'env', `LD_PRELOAD=${runtime}`, `TSAN_OPTIONS=${options}`];
}

/** A run of mocha over a part. */
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
  return { command, args, cwd: root, env: { NODE_MOE_PREBUILD: folder, NODE_MOE_TEST_DEVICE: 'simt' } };
}

const build = ['tools/build.mjs', '--simt', ...(threads ? ['--sanitize=thread'] : [])];
execFileSync(process.execPath, build, { cwd: root, stdio: 'inherit' });
await twoAtOnce(parts.map(mocha));
