#!/usr/bin/env node
/**
 * Builds the native addon: checks what the machine must have, then runs cmake-js (CMakeLists.txt is the only source list).
 * Incremental and quiet: one line of progress, the tools' output only on failure. No network.
 *
 *   node tools/build.mjs [--out DIR] [--simt] [--sanitize=thread]
 *
 * DIR is relative to the package, default build; the result is DIR/Release/node_moe.node. With --simt the simt device
 * (moe_simt.so), which is for development and never shipped, is built beside it, and DIR is build-simt/build: an addon of its
 * own, which NODE_MOE_PREBUILD=$PWD/build-simt loads. With --sanitize=thread, which `npm run test:simt` uses, everything is
 * under the thread sanitizer and DIR has the word appended: build-simt-thread/build.
 *
 * Other arguments are ignored, so that prebuildify can call this in node-gyp's place.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** First number.number of a tool's version text, or undefined where it does not run. */
function version(command, args) {
  const run = spawnSync(command, args, { encoding: 'utf8' });
  if (run.error || run.status !== 0) return undefined;
  const found = /(\d+)(?:\.(\d+))?/.exec(run.stdout);
  return found
    ? { text: found[0], number: Number(found[1]) * 1000 + Number(found[2] ?? 0), all: run.stdout }
    : undefined;
}

/** The one line that says what is missing, or undefined. */
function missing() {
  const compiler = process.env.CXX || 'g++';
  const [command, ...flags] = compiler.split(' ').filter(Boolean);
  const found = version(command, [...flags, '-dumpfullversion', '-dumpversion']);
  if (!found) {
    return process.env.CXX
      ? `building needs the C++ compiler that CXX names ('${compiler}') and it does not run: correct or unset CXX`
      : 'building needs g++ ≥ 12 and it was not found: apt-get install g++';
  }
  const clang = /clang/i.test(version(command, [...flags, '--version'])?.all ?? '');
  if (!clang && found.number < 12_000) {
    return `building needs g++ ≥ 12 and ${compiler} is ${found.text}: apt-get install g++-12 and set CXX=g++-12`;
  }
  const cmake = version('cmake', ['--version']);
  if (!cmake) return 'building needs CMake ≥ 3.24 and it was not found: apt-get install cmake';
  if (cmake.number < 3_024)
    return `building needs CMake ≥ 3.24 and ${cmake.text} was found: pip install cmake, or a newer distribution`;
  if (!version('ninja', ['--version']) && !version('make', ['--version'])) {
    return 'building needs Ninja or Make and neither was found: apt-get install ninja-build';
  }
  for (const name of ['cmake-js', 'node-addon-api', 'node-api-headers']) {
    if (!existsSync(resolve(root, 'node_modules', name, 'package.json')) && !resolves(name)) {
      return `building needs the package ${name} and it was not found: npm install --include=dev`;
    }
  }
  return undefined;
}

function resolves(name) {
  try {
    createRequire(import.meta.url).resolve(`${name}/package.json`);
    return true;
  } catch {
    return false;
  }
}

/** A build folder that was configured for sources in another place cannot be used again. */
function dropForeignCache(out) {
  const cache = resolve(out, 'CMakeCache.txt');
  if (!existsSync(cache)) return;
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(readFileSync(cache, 'utf8'))?.[1];
  if (home === undefined || resolve(home) !== resolve(root)) rmSync(out, { recursive: true, force: true });
}

function build(out, simt, sanitize) {
  const cli = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
  const args = [
    cli,
    'build',
    '--directory',
    root,
    '--out',
    out,
    '--config',
    'Release',
    '--parallel',
    String(availableParallelism()),
    `--CDMOE_SIMT=${simt ? 'ON' : 'OFF'}`,
    ...(sanitize ? [`--CDMOE_SANITIZE=${sanitize}`] : []),
  ];
  const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  const output = [];
  child.stdout.on('data', (chunk) => output.push(chunk));
  child.stderr.on('data', (chunk) => output.push(chunk));
  return new Promise((done) => {
    child.on('error', (error) => done({ code: 1, output: error.message }));
    child.on('close', (code) => done({ code: code ?? 1, output: Buffer.concat(output).toString() }));
  });
}

const lack = missing();
if (lack) {
  process.stderr.write(`node-moe: ${lack}\n`);
  process.exit(1);
}
const simt = process.argv.includes('--simt');
const at = process.argv.indexOf('--out');
const sanitize = process.argv.includes('--sanitize=thread') ? 'thread' : '';
const own = `${simt ? 'build-simt' : 'build'}${sanitize && `-${sanitize}`}`;
const out = resolve(root, (at > 0 && process.argv[at + 1]) || (own === 'build' ? own : `${own}/build`));
dropForeignCache(out);
process.stderr.write(`node-moe: building the native addon${simt ? ' and the simt device' : ''} … `);
const started = performance.now();
const { code, output } = await build(out, simt, sanitize);
const seconds = ((performance.now() - started) / 1000).toFixed(1);
process.stderr.write(code === 0 ? `done in ${seconds} s\n` : `failed after ${seconds} s\n${output}\n`);
process.exitCode = code === 0 ? 0 : 1;
