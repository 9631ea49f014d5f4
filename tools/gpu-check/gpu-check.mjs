#!/usr/bin/env node
/**
 * Checks a GPU: builds what is needed, compares every kernel with the reference and with the same kernels on simt, runs
 * NVIDIA's sanitizer, and measures. Each stage can be run alone and takes at most 8 minutes.
 *
 *   node tools/gpu-check/gpu-check.mjs [STAGE ...] [--device cuda|simt] [--cases N] [--kit DIR]
 *
 * STAGE  build         the addon, the CUDA library for this GPU, simt, and the driver, into DIR
 *        facade        the conformance, golden and traffic tests (mocha) on the device
 *        conformance, twin, sanitize, bench: those of gpu-check.sh, which needs no Node
 *
 * All of them where none is named. DIR: the folder that gpu-check.sh needs, default build-gpu-check/kit; what lies there is
 * used without a build where `build` is not among the stages. --device simt is a dry run: everything but NVIDIA's tools, and
 * no speed is meant. Results of a GPU go to bench/results.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { toolkit } from '../cuda/toolkit.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const script = fileURLToPath(new URL('gpu-check.sh', import.meta.url));
const limit = 480_000;
/** What gpu-check.sh ends with where a stage could not run. */
const skipped = 4;
const shellStages = ['conformance', 'twin', 'sanitize', 'bench'];
const all = ['build', 'facade', ...shellStages];

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    device: { type: 'string', default: 'cuda' },
    cases: { type: 'string', default: '8' },
    kit: { type: 'string', default: 'build-gpu-check/kit' },
  },
});
const device = options.device;
const kit = resolve(root, options.kit);
const dry = device !== 'cuda';
const stages = positionals.length > 0 ? positionals : all;
const unknown = stages.find((stage) => !all.includes(stage));
if (unknown) {
  console.error(`gpu-check: no stage ${unknown}: ${all.join(', ')}`);
  process.exit(1);
}

/** When the stage that runs has to be over. */
let end = 0;

/** Runs a command to its end, or to the stage's; its status, null where it had none. */
function run(command, args, env = {}) {
  const { status, signal, error } = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    timeout: Math.max(1, end - Date.now()),
    env: { ...process.env, ...env },
  });
  if (error) console.log(`${command}: ${error.message}`);
  else if (signal) console.log(`${command}: stopped by ${signal}`);
  return status;
}

/** Of the first GPU, as CMake's CUDA_ARCHITECTURES: '90a-real'; undefined where nvidia-smi does not say. */
function architecture() {
  const { stdout } = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], {
    encoding: 'utf8',
  });
  const found = /^(\d+)\.(\d+)/.exec(stdout ?? '');
  return found && `${found[1]}${found[2]}${found[1] === '9' ? 'a' : ''}-real`;
}

/** The addon that finds simt beside it, and here the CUDA library too. */
const addon = 'build-simt';
const beside = `${addon}/build/Release`;

function build() {
  const found = architecture();
  const folder = dirname(kit);
  const parallel = String(availableParallelism());
  const steps = [
    [process.execPath, ['tools/build.mjs', '--simt']],
    [process.execPath, ['tools/cuda/build.mjs', ...(found ? ['--architectures', found] : [])]],
    ['cmake', ['-S', root, '-B', folder]],
    ['cmake', ['--build', folder, '--parallel', parallel, '--target', 'moe_gpu_check']],
  ];
  if (dry) steps.splice(1, 1);
  for (const [command, args] of steps) if (run(command, args) !== 0) return 1;
  mkdirSync(kit, { recursive: true });
  const files = [`${beside}/moe_simt.so`, join(folder, 'moe_gpu_check'), script];
  if (!dry) {
    files.push('build-cuda/moe_cuda.so');
    copyFileSync(join(root, 'build-cuda/moe_cuda.so'), join(root, beside, 'moe_cuda.so'));
  }
  for (const file of files) copyFileSync(resolve(root, file), join(kit, file.split('/').at(-1)));
  console.log(`gpu-check: ${kit} holds what a machine without Node needs`);
  return 0;
}

function facade() {
  const lack = ['node_modules/mocha', `${beside}/node_moe.node`, `${beside}/moe_${device}.so`].find(
    (path) => !existsSync(join(root, path)),
  );
  if (lack) {
    console.log(`skipped: no ${lack}`);
    return skipped;
  }
  const mocha = join(root, 'node_modules/mocha/bin/mocha.js');
  return run(process.execPath, [mocha, '--config', '.mocharc.device.json', '--reporter', 'dot'], {
    NODE_MOE_PREBUILD: join(root, addon),
    NODE_MOE_TEST_DEVICE: device,
  });
}

/** compute-sanitizer of the toolkit that has built the library here. */
function sanitizer() {
  const known = dry || process.env.COMPUTE_SANITIZER || !existsSync(join(root, 'build-cuda'));
  return known ? {} : { COMPUTE_SANITIZER: toolkit().tools['compute-sanitizer'] };
}

function shell(stage) {
  return run('sh', [script, stage], {
    KIT: kit,
    DEVICE: device,
    CASES: options.cases,
    RESULTS: dry ? kit : join(root, 'bench/results'),
    ...(stage === 'sanitize' && sanitizer()),
  });
}

const outcomes = stages.map((stage) => {
  end = Date.now() + limit;
  if (!shellStages.includes(stage)) console.log(`== ${stage}`);
  return [stage, stage === 'build' ? build() : stage === 'facade' ? facade() : shell(stage)];
});
for (const [stage, status] of outcomes) {
  console.log(`gpu-check: ${stage} ${status === 0 ? 'passed' : status === skipped ? 'skipped' : 'FAILED'}`);
}
if (dry) console.log('gpu-check: a dry run: no GPU was used and no speed is meant');
process.exitCode = outcomes.every(([, status]) => status === 0 || status === skipped) ? 0 : 1;
