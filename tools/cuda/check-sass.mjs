#!/usr/bin/env node
/**
 * Checks the machine code of a CUDA library against sass.json: that kernels use the instructions that make them fast, and
 * that their loops do without those that make them slow.
 *
 *   node tools/cuda/check-sass.mjs [--library FILE | --sass FILE] [--rules FILE]
 *
 * --library is disassembled with cuobjdump (default build-cuda/moe_cuda.so); --sass is the text of `cuobjdump -sass`. A rule:
 *   kernel         regular expression over the whole name with template arguments, as `linear<.*>`
 *   architecture   regular expression over the whole name: sm_80
 *   contains       instructions that every such kernel must have, anywhere
 *   notInLoops     instructions that none may have inside a loop
 * An instruction is named by the parts that matter, in any order after the first: LDG.128 is found in LDG.E.LTC128B.128.
 * A rule that applies to no kernel of an architecture in the library is a mistake and fails.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { inLoops } from './control-flow.mjs';
import { kernelNames } from './kernels.mjs';
import { toolkit } from './toolkit.mjs';

/**
 * Kernels of a disassembly.
 * @returns {{mangled: string, architecture: string, instructions: import('./control-flow.mjs').Instruction[]}[]}
 */
function parseDisassembly(text) {
  const kernels = [];
  let architecture = '';
  let current;
  for (const line of text.split('\n')) {
    architecture = /^\s*\.target\s+(\w+)/.exec(line)?.[1] ?? architecture;
    const mangled = /^\s*Function : (\S+)/.exec(line)?.[1];
    if (mangled) {
      current = { mangled, architecture, instructions: [] };
      kernels.push(current);
    }
    const found = /^\s*\/\*([0-9a-f]{4,})\*\/\s+(?:\{\s*)?(.+?)\s*;/.exec(line);
    if (!found || !current) continue;
    const [, address, instruction] = found;
    const opcode = instruction.replace(/^@!?U?P\w+\s+/, '').split(/\s/)[0];
    current.instructions.push({ address: Number.parseInt(address, 16), text: instruction, opcode });
  }
  return kernels;
}

/** Whether LDG.E.LTC128B.128 is an LDG.128: the same operation with at least the parts named. */
function isInstruction(opcode, wanted) {
  const [operation, ...parts] = opcode.split('.');
  const [wantedOperation, ...wantedParts] = wanted.split('.');
  return operation === wantedOperation && wantedParts.every((part) => parts.includes(part));
}

const whole = (pattern) => new RegExp(`^(?:${pattern})$`);

/** What a kernel breaks of a rule, one line each. */
function broken({ name, architecture, instructions }, { contains = [], notInLoops = [] }) {
  const found = [];
  for (const wanted of contains) {
    if (!instructions.some(({ opcode }) => isInstruction(opcode, wanted))) {
      found.push(`${name} ${architecture}: has no ${wanted}, which it must contain`);
    }
  }
  if (notInLoops.length === 0) return found;
  const looping = inLoops(instructions);
  for (const refused of notInLoops) {
    const hits = instructions.filter(({ opcode }, index) => looping[index] && isInstruction(opcode, refused));
    if (hits.length === 0) continue;
    const [{ address, text }] = hits;
    const first = `the first at 0x${address.toString(16)}: ${text}`;
    found.push(`${name} ${architecture}: has ${hits.length} ${refused} inside a loop, allowed none; ${first}`);
  }
  return found;
}

function failures(kernels, rules) {
  const found = new Set();
  for (const rule of rules) {
    const [kernelPattern, architecturePattern] = [whole(rule.kernel), whole(rule.architecture)];
    const ofArchitecture = kernels.filter(({ architecture }) => architecturePattern.test(architecture));
    const chosen = ofArchitecture.filter(({ name }) => kernelPattern.test(name));
    if (ofArchitecture.length > 0 && chosen.length === 0) {
      found.add(`the rule for ${rule.kernel} on ${rule.architecture} applies to no kernel: correct or remove it`);
    }
    for (const line of chosen.flatMap((kernel) => broken(kernel, rule))) found.add(line);
  }
  return [...found];
}

/** The kernels of a library, one architecture after the other: the text of all would be longer than a string may be. */
function disassemble(library) {
  if (!existsSync(library)) throw new Error(`${library} does not exist: npm run build:cuda`);
  const cuobjdump = (...options) => {
    const run = spawnSync(toolkit().tools.cuobjdump, [...options, library], { encoding: 'utf8', maxBuffer: 1 << 29 });
    if (run.status !== 0) throw new Error(`cuobjdump cannot read ${library}: ${run.stderr || run.error?.message}`);
    return run.stdout;
  };
  const architectures = new Set(cuobjdump('--list-elf').match(/\bsm_\w+/g));
  return [...architectures].flatMap((architecture) => parseDisassembly(cuobjdump('-sass', '-arch', architecture)));
}

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { values } = parseArgs({
  options: {
    library: { type: 'string', default: here('../../build-cuda/moe_cuda.so') },
    sass: { type: 'string' },
    rules: { type: 'string', default: here('sass.json') },
  },
});
try {
  const parsed = values.sass ? parseDisassembly(readFileSync(values.sass, 'utf8')) : disassemble(values.library);
  if (parsed.length === 0) throw new Error('the disassembly has no kernel in it');
  const names = kernelNames(parsed.map(({ mangled }) => mangled));
  const kernels = parsed.map((kernel) => ({ ...kernel, name: names.get(kernel.mangled).full }));
  const rules = JSON.parse(readFileSync(values.rules, 'utf8'));
  const found = failures(kernels, rules);
  for (const line of found) console.error(`node-moe: ${line}`);
  if (found.length === 0) console.log(`machine code: ${kernels.length} kernels keep all rules (${rules.length})`);
  process.exitCode = found.length === 0 ? 0 : 1;
} catch (error) {
  console.error(`node-moe: ${error.message}`);
  process.exitCode = 1;
}
