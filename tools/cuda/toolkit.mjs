#!/usr/bin/env node
/**
 * Finds a CUDA toolkit of 13.0 or newer (CUDACXX, CUDA_HOME, nvcc on PATH, /usr/local/cuda), or installs the pinned
 * packages of requirements.txt from the Python package index into build-cuda-toolkit. No GPU and no driver is needed.
 *
 *   node tools/cuda/toolkit.mjs [--packages]      prints the tools' paths, then on the last line the toolkit's root
 *
 * --packages leaves the machine's own toolkit aside, so that everyone builds with the same compiler.
 */
import { spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  copyFileSync,
  existsSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const requirements = fileURLToPath(new URL('requirements.txt', import.meta.url));
const oldest = { major: 13, minor: 0 };
const tools = ['nvcc', 'ptxas', 'cuobjdump', 'nvdisasm', 'compute-sanitizer'];

/**
 * @typedef {object} Toolkit
 * @property {string} root                what CMake calls CUDAToolkit_ROOT
 * @property {Record<string, string>} tools   absolute paths of nvcc, ptxas, cuobjdump, nvdisasm and compute-sanitizer
 */

/**
 * The toolkit to build with; installs one where there is none, which takes seconds and 330 MB. Throws an Error of one line.
 * @param {{packages?: boolean}} options
 * @returns {Toolkit}
 */
export function toolkit({ packages = false } = {}) {
  return (packages ? undefined : machineToolkit()) ?? installedToolkit();
}

function machineToolkit() {
  for (const name of ['CUDACXX', 'CUDA_HOME']) {
    const value = process.env[name];
    if (!value) continue;
    const { found, lack } = inspect(name === 'CUDACXX' ? value : join(value, 'bin', 'nvcc'));
    // What the user names is never passed over in silence.
    if (!found) throw new Error(`${name} is ${value}, where ${lack}: correct or unset ${name}`);
    return found;
  }
  const places = [...(process.env.PATH ?? '').split(delimiter).filter(Boolean), '/usr/local/cuda/bin'];
  for (const place of places) {
    const { found } = inspect(join(place, 'nvcc'));
    if (found) return found;
  }
  return undefined;
}

/** The toolkit that an nvcc belongs to, or the words that say what it lacks. */
function inspect(nvcc) {
  if (!executable(nvcc)) return { lack: 'there is no nvcc that can be run' };
  const run = spawnSync(nvcc, ['--version'], { encoding: 'utf8' });
  const release = /release (\d+)\.(\d+)/.exec(run.stdout ?? '');
  if (!release) return { lack: 'nvcc --version does not answer' };
  const [major, minor] = [Number(release[1]), Number(release[2])];
  if (major < oldest.major || (major === oldest.major && minor < oldest.minor)) {
    return { lack: `CUDA is ${major}.${minor} and must be ≥ ${oldest.major}.${oldest.minor}` };
  }
  const at = dirname(dirname(realpathSync(nvcc)));
  const paths = Object.fromEntries(tools.map((name) => [name, join(at, 'bin', name)]));
  const absent = tools.filter((name) => !executable(paths[name]));
  if (absent.length > 0) return { lack: `${absent.join(', ')} cannot be found` };
  return { found: { root: at, tools: paths } };
}

function executable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function installedToolkit() {
  const folder = join(root, 'build-cuda-toolkit');
  if (!isCurrent(folder)) install(folder);
  const { found, lack } = inspect(join(folder, 'nvidia', 'cu13', 'bin', 'nvcc'));
  if (!found) throw new Error(`${folder} is not usable: ${lack}: remove it and run this again`);
  return found;
}

/** Whether the folder holds what requirements.txt asks for today: its copy of that file is written last. */
function isCurrent(folder) {
  const stamp = join(folder, 'requirements.txt');
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === readFileSync(requirements, 'utf8');
}

/** Installs beside the folder and renames, so that a folder of that name is always whole. */
function install(folder) {
  requirePip();
  const partial = `${folder}-${process.pid}.partial`;
  process.stderr.write('node-moe: installing the CUDA compiler (330 MB) … ');
  try {
    const options = ['--target', partial, '--no-deps', '--only-binary', ':all:', '--retries', '2', '--no-input'];
    const args = ['-m', 'pip', 'install', '--disable-pip-version-check', ...options, '--requirement', requirements];
    const run = spawnSync('python3', args, { encoding: 'utf8' });
    if (run.status !== 0) {
      const words =
        /^ERROR: (.*)$/m.exec(run.stderr ?? '')?.[1] ?? run.error?.message ?? `pip ended with ${run.status}`;
      throw new Error(`installing the CUDA packages failed (is there a network?): ${words}`);
    }
    // CMake looks for libraries in lib64, the packages have lib.
    symlinkSync('lib', join(partial, 'nvidia', 'cu13', 'lib64'));
    copyFileSync(requirements, join(partial, 'requirements.txt'));
    // Another process may have been faster; what it installed is as good, and may be in use.
    if (!isCurrent(folder)) {
      rmSync(folder, { recursive: true, force: true });
      renameSync(partial, folder);
    }
    process.stderr.write('done\n');
  } catch (error) {
    process.stderr.write('failed\n');
    throw error;
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

function requirePip() {
  const python = spawnSync('python3', ['--version']);
  if (python.error || python.status !== 0) {
    throw new Error(
      'installing the CUDA compiler needs python3 and it was not found: apt-get install python3 python3-pip',
    );
  }
  if (spawnSync('python3', ['-m', 'pip', '--version']).status !== 0) {
    throw new Error('installing the CUDA compiler needs pip and python3 has none: apt-get install python3-pip');
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    const found = toolkit({ packages: process.argv.includes('--packages') });
    for (const name of tools) console.log(`${name.padEnd(18)}${found.tools[name]}`);
    console.log(found.root);
  } catch (error) {
    console.error(`node-moe: ${error.message}`);
    process.exitCode = 1;
  }
}
