/** Names of kernels as people write them, from the mangled names that compiler and disassembler print. */
import { spawnSync } from 'node:child_process';

/**
 * @typedef {object} KernelName
 * @property {string} name   without namespaces and template arguments: `tile_product`
 * @property {string} full   with template arguments: `tile_product<128, (Store)1>`
 */

/**
 * The name of each mangled one; one that c++filt does not know stays as it is. Throws an Error where there is no c++filt.
 * @param {Iterable<string>} mangled
 * @returns {Map<string, KernelName>}
 */
export function kernelNames(mangled) {
  const names = [...new Set(mangled)];
  if (names.length === 0) return new Map();
  const run = spawnSync('c++filt', { input: names.join('\n'), encoding: 'utf8', maxBuffer: 1 << 28 });
  if (run.error) throw new Error('names of kernels need c++filt and it was not found: apt-get install binutils');
  const lines = run.stdout.split('\n');
  return new Map(names.map((name, index) => [name, shorten(lines[index] ?? name)]));
}

/** @returns {KernelName} */
function shorten(demangled) {
  const text = demangled.replaceAll('(anonymous namespace)::', '');
  let [depth, start, end] = [0, 0, text.length];
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === '<') depth++;
    else if (character === '>') depth--;
    else if (depth > 0) continue;
    else if (character === '(') {
      end = at;
      break;
    } else if (character === ' ' || character === ':') start = at + 1;
  }
  const full = text.slice(start, end).replaceAll(/\w+::/g, '');
  return { name: full.replace(/<.*/, ''), full };
}
