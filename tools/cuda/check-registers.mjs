#!/usr/bin/env node
/**
 * Checks what `ptxas -v` said about every kernel of the CUDA library: nothing spills, nothing has a stack frame, nothing
 * takes more registers than registers.json allows, and ptxas warns of no performance loss (it does where it has to make
 * wgmma wait for itself). Prints registers and static shared memory of each; occupancy
 * also depends on the launch: bench/kernels.ts tells it.
 *
 *   node tools/cuda/check-registers.mjs [--write] [--ptxas FILE] [--table FILE]
 *
 * registers.json, by kernel (template arguments folded, the most demanding counts): `registers`, by architecture. --write sets
 * them to what this build takes and drops kernels that are gone.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { kernelNames } from './kernels.mjs';

/**
 * One record a kernel and architecture, as compiled.
 * @returns {{mangled: string, architecture: string, registers: number, stack: number, stores: number, loads: number, shared: number}[]}
 */
function parseStatistics(text) {
  const records = [];
  let current;
  for (const line of text.split('\n')) {
    const entry = /Compiling entry function '(.+)' for '(\w+)'/.exec(line);
    if (entry) {
      const [, mangled, architecture] = entry;
      current = { mangled, architecture, registers: 0, stack: 0, stores: 0, loads: 0, shared: 0 };
      records.push(current);
    }
    if (!current) continue;
    // A function that the kernel calls has a frame of its own, reported under the kernel.
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    if (frame) {
      current.stack = Math.max(current.stack, Number(frame[1]));
      current.stores += Number(frame[2]);
      current.loads += Number(frame[3]);
    }
    current.registers = Math.max(current.registers, Number(/Used (\d+) registers/.exec(line)?.[1] ?? 0));
    current.shared = Math.max(current.shared, Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0));
  }
  return records;
}

/** The most that any instance of a kernel takes, by name, then architecture. */
function fold(records, names) {
  const folded = new Map();
  for (const record of records) {
    const { name } = names.get(record.mangled);
    const byArchitecture = folded.get(name) ?? new Map();
    const { registers = 0, shared = 0 } = byArchitecture.get(record.architecture) ?? {};
    byArchitecture.set(record.architecture, {
      registers: Math.max(registers, record.registers),
      shared: Math.max(shared, record.shared),
    });
    folded.set(name, byArchitecture);
  }
  return folded;
}

/** What ptxas itself found slow, with the names of kernels in clear. */
function losses(text, names) {
  const lines = text.split('\n').filter((line) => line.includes('Potential Performance Loss'));
  const clear = (line) => line.replaceAll(/\b_Z\w+/g, (mangled) => names.get(mangled)?.full ?? mangled);
  return lines.map((line) => clear(line).replace(/^ptxas info\s*: /, 'ptxas: '));
}

const addHint = 'add it with: node tools/cuda/check-registers.mjs --write';

/** One line for each thing that is wrong. */
function failures(records, names, folded, table) {
  const found = [];
  for (const { mangled, architecture, registers, stack, stores, loads } of records) {
    const { name, full } = names.get(mangled);
    const kernel = `${full} ${architecture}`;
    if (stores + loads > 0)
      found.push(`${kernel}: spills ${stores} bytes of stores and ${loads} of loads, allowed none`);
    if (stack > 0) found.push(`${kernel}: stack frame of ${stack} bytes, allowed none`);
    const allowed = table[name]?.registers?.[architecture];
    if (allowed === undefined) continue;
    if (registers > allowed) found.push(`${kernel}: ${registers} registers, allowed ${allowed}`);
  }
  for (const [name, byArchitecture] of folded) {
    for (const architecture of byArchitecture.keys()) {
      if (table[name]?.registers?.[architecture] === undefined) {
        found.push(`${name} ${architecture}: is not in registers.json: ${addHint}`);
      }
    }
  }
  for (const name of Object.keys(table)) {
    if (!folded.has(name))
      found.push(`${name}: is in registers.json but no kernel has that name: remove it with --write`);
  }
  return found;
}

/** The table with this build's counts; architectures that were not built stay. */
function rewritten(table, folded) {
  const next = {};
  for (const name of [...folded.keys()].sort()) {
    const counts = { ...table[name]?.registers };
    for (const [architecture, { registers: count }] of folded.get(name)) counts[architecture] = count;
    next[name] = { registers: Object.fromEntries(Object.entries(counts).sort()) };
  }
  return next;
}

function report(folded) {
  for (const [name, byArchitecture] of [...folded].sort()) {
    for (const [architecture, counts] of byArchitecture) {
      console.log(`${name} ${architecture}: ${counts.registers} registers, ${counts.shared} bytes shared`);
    }
  }
}

function read(file, hint) {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new Error(`${file} cannot be read (${error.code}): ${hint}`);
  }
}

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { values } = parseArgs({
  options: {
    write: { type: 'boolean', default: false },
    ptxas: { type: 'string', default: here('../../build-cuda/ptxas.txt') },
    table: { type: 'string', default: here('registers.json') },
  },
});
try {
  const text = read(values.ptxas, 'npm run build:cuda');
  const records = parseStatistics(text);
  if (records.length === 0)
    throw new Error(`${values.ptxas} names no kernel: is the library compiled with -Xptxas=-v?`);
  const names = kernelNames(records.map(({ mangled }) => mangled));
  const folded = fold(records, names);
  let table = JSON.parse(read(values.table, 'it is part of the sources'));
  if (values.write) {
    table = rewritten(table, folded);
    writeFileSync(values.table, `${JSON.stringify(table, null, 2)}\n`);
  }
  report(folded);
  const found = [...failures(records, names, folded, table), ...losses(text, names)];
  for (const line of found) console.error(`node-moe: ${line}`);
  process.exitCode = found.length === 0 ? 0 : 1;
} catch (error) {
  console.error(`node-moe: ${error.message}`);
  process.exitCode = 1;
}
