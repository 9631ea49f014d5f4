// Checks that imports and includes only go down the floors of the house (docs/architecture.md), and that rooms form no circle.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

const houses = [
  {
    folder: 'lib',
    extension: '.ts',
    pattern: /(?:from|import)\s*\(?\s*'(\.[^']+)'/g,
    // Lowest first; a room may use its own floor and those below.
    floors: [
      ['errors', 'arguments'],
      ['addon'],
      ['device', 'tensor'],
      ['graph', 'weight'],
      ['checkpoint', 'moe'],
      ['model'],
      ['compress', 'bench'],
      ['cli'],
    ],
    roof: ['index'],
    resolve: (file, target) => normalize(join(dirname(file), target)),
  },
  {
    folder: 'native',
    extension: /\.(cc|cu|h|inl)$/,
    pattern: /#include\s+"([^"]+)"/g,
    // simt is the cuda sources over another machine: they never see it, it sees them.
    floors: [['include'], ['core', 'numerics', 'reference', 'cpu', 'cuda'], ['simt'], ['addon']],
    roof: [],
    // Devices, core and numerics stand side by side and never see each other.
    apart: ['core', 'numerics', 'reference', 'cpu', 'cuda'],
    resolve: (file, target) => {
      const folder = target.split('/')[0];
      if (folder === 'moe') return join('native/include', target);
      if (['core', 'numerics', 'addon', 'reference', 'cpu', 'cuda', 'simt'].includes(folder))
        return join('native', target);
      return normalize(join(dirname(file), target));
    },
  },
];

const problems = houses.flatMap(check);
for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exitCode = 1;
else console.log('floors: every import goes down');

function check({ folder, extension, pattern, floors, roof, apart = [], resolve }) {
  const found = [];
  const edges = new Map();
  const room = (file) =>
    relative(folder, file)
      .split('/')[0]
      .replace(/\.[a-z]+$/, '');
  const floor = (name) => (roof.includes(name) ? floors.length : floors.findIndex((rooms) => rooms.includes(name)));
  for (const file of files(folder, extension)) {
    const from = room(file);
    if (floor(from) < 0) found.push(`${file}: room ${from} has no floor`);
    for (const [, target] of readFileSync(join(root, file), 'utf8').matchAll(pattern)) {
      const to = room(resolve(file, target));
      if (to === from || to.startsWith('..')) continue;
      if (floor(to) < 0 || floor(to) > floor(from) || (apart.includes(from) && apart.includes(to))) {
        found.push(`${file}: ${from} may not use ${to} (${target})`);
      }
      edges.set(from, (edges.get(from) ?? new Set()).add(to));
    }
  }
  return [...found, ...circles(edges)];
}

function circles(edges) {
  const done = new Set();
  const path = [];
  const visit = (name) => {
    if (path.includes(name)) return [`rooms in a circle: ${[...path.slice(path.indexOf(name)), name].join(' → ')}`];
    if (done.has(name)) return [];
    path.push(name);
    const found = [...(edges.get(name) ?? [])].flatMap(visit);
    path.pop();
    done.add(name);
    return found;
  };
  return [...edges.keys()].flatMap(visit);
}

function files(folder, extension) {
  return readdirSync(join(root, folder), { recursive: true })
    .map((name) => join(folder, name))
    .filter((name) => (typeof extension === 'string' ? name.endsWith(extension) : extension.test(name)));
}
