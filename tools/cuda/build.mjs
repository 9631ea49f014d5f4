#!/usr/bin/env node
/**
 * Builds the CUDA device library (CMake target moe_cuda) in build-cuda, with the toolkit that toolkit.mjs finds or installs,
 * and puts a copy beside the addon where `npm run build:native` has built that.
 * Incremental and quiet: one line of progress, the tools' output only on failure. No GPU is needed.
 *
 *   node tools/cuda/build.mjs [--architectures LIST] [--release] [--packages]
 *
 * LIST is CMake's CUDA_ARCHITECTURES, default 80;90a-real. --release builds what is shipped, in
 * build-cuda-release: every generation, the kernels compressed and without source lines. `npm run build:prebuild` takes that one.
 * build-cuda/ptxas.txt afterwards holds what `ptxas -v` said about every kernel in the library: `npm run check:cuda` reads it.
 */
import { spawn } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { toolkit } from './toolkit.mjs';

const development = '80;90a-real';
const release = '80;86-real;89-real;90a-real;100-real;120-real';

const root = fileURLToPath(new URL('../..', import.meta.url));
const { values } = parseArgs({
  options: {
    architectures: { type: 'string' },
    release: { type: 'boolean', default: false },
    packages: { type: 'boolean', default: false },
  },
});
const out = join(root, values.release ? 'build-cuda-release' : 'build-cuda');

/** A build folder that was configured for other sources or another compiler cannot be used again. */
function dropForeignCache(nvcc) {
  const file = join(out, 'CMakeCache.txt');
  if (!existsSync(file)) return;
  const cache = readFileSync(file, 'utf8');
  const value = (name) => new RegExp(`^${name}:\\w+=(.*)$`, 'm').exec(cache)?.[1] ?? '';
  if (resolve(value('CMAKE_HOME_DIRECTORY')) === resolve(root) && value('CMAKE_CUDA_COMPILER') === nvcc) return;
  rmSync(out, { recursive: true, force: true });
}

/** Runs CMake with its output held back; throws an Error with that output where it fails. */
function cmake(args) {
  const child = spawn('cmake', args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  const output = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => output.push(chunk));
  return new Promise((done, fail) => {
    child.on('error', () => fail(new Error('building needs CMake ≥ 3.24 and it was not found: apt-get install cmake')));
    child.on('close', (code) => (code === 0 ? done() : fail(new Error(Buffer.concat(output).toString()))));
  });
}

/** What ptxas said about every object that the build knows now; compile.mjs keeps it beside the object. */
function statistics() {
  const commands = JSON.parse(readFileSync(join(out, 'compile_commands.json'), 'utf8'));
  const objects = commands.map(({ command }) => / -o (\S+)/.exec(command)?.[1] ?? '');
  const files = objects.map((object) => resolve(out, `${object}.ptxas.txt`)).filter((file) => existsSync(file));
  return files.map((file) => readFileSync(file, 'utf8')).join('');
}

/** Copies and renames: a process that has the old library open keeps it whole. */
function putBesideAddon() {
  const folder = join(root, 'build/Release');
  if (!existsSync(join(folder, 'node_moe.node'))) return;
  const partial = join(folder, `moe_cuda.so-${process.pid}.partial`);
  copyFileSync(join(out, 'moe_cuda.so'), partial);
  renameSync(partial, join(folder, 'moe_cuda.so'));
}

async function build(architectures, { root: toolkitRoot, tools }) {
  dropForeignCache(tools.nvcc);
  const settings = {
    MOE_CUDA: 'ON',
    MOE_CUDA_RELEASE: values.release ? 'ON' : 'OFF',
    CMAKE_BUILD_TYPE: 'Release',
    CMAKE_CUDA_COMPILER: tools.nvcc,
    CMAKE_CUDA_COMPILER_LAUNCHER: [process.execPath, join(root, 'tools/cuda/compile.mjs')].join(';'),
    CMAKE_CUDA_ARCHITECTURES: architectures,
    CMAKE_EXPORT_COMPILE_COMMANDS: 'ON',
    CUDAToolkit_ROOT: toolkitRoot,
  };
  await cmake(['-S', root, '-B', out, ...Object.entries(settings).map(([name, value]) => `-D${name}=${value}`)]);
  await cmake(['--build', out, '--target', 'moe_cuda', '--parallel', String(availableParallelism())]);
  writeFileSync(join(out, 'ptxas.txt'), statistics());
  putBesideAddon();
}

/** The toolkit, or undefined after one line that says what is missing. */
function findToolkit(options) {
  try {
    return toolkit(options);
  } catch (error) {
    process.stderr.write(`node-moe: ${error.message}\n`);
    return undefined;
  }
}

const found = findToolkit({ packages: values.packages });
if (!found) process.exit(1);
const architectures = values.architectures ?? (values.release ? release : development);
process.stderr.write(`node-moe: building the CUDA library for ${architectures} … `);
const started = performance.now();
const seconds = () => ((performance.now() - started) / 1000).toFixed(1);
try {
  await build(architectures, found);
  process.stderr.write(`done in ${seconds()} s\n`);
} catch (error) {
  process.stderr.write(`failed after ${seconds()} s\n${error.message}\n`);
  process.exitCode = 1;
}
