// The package as its users get it: prebuild, pack, install into an empty project without compilers or scripts, import and require it.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { builtLibrary } from './cuda/library.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'node-moe-package-'));
const npmCli = process.env.npm_execpath ?? join(dirname(process.execPath), '../lib/node_modules/npm/bin/npm-cli.js');
const npm = (args, options) => execFileSync(process.execPath, [npmCli, ...args], { encoding: 'utf8', ...options });

try {
  npm(['run', 'build:lib'], { cwd: root, stdio: 'inherit' });
  npm(['run', 'build:prebuild'], { cwd: root, stdio: 'inherit' });
  const [{ filename, size, unpackedSize, files }] = JSON.parse(
    npm(['pack', '--json', '--pack-destination', folder], { cwd: root }),
  );
  const foreign = files
    .map((file) => file.path)
    .filter((path) => /^(native|test|build|bench)\/|moe_simt/.test(path) || path === 'binding.gyp');
  if (foreign.length > 0) throw new Error(`not meant to be published: ${foreign.join(', ')}`);

  // Only node is on the PATH: whatever tried to compile would fail.
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  symlinkSync(process.execPath, join(bin, 'node'));
  const project = join(folder, 'project');
  mkdirSync(project);
  writeFileSync(join(project, 'package.json'), '{ "name": "empty", "private": true }');
  const env = { ...process.env, PATH: bin };
  npm(['install', '--ignore-scripts', '--no-audit', '--no-fund', join(folder, filename)], {
    cwd: project,
    env,
    stdio: 'inherit',
  });

  const body = `
    const device = await openDevice('cpu');
    const graph = new Graph(device);
    const x = graph.input('x', 'f32', ['tokens', 2]);
    const program = graph.output('y', graph.map('relu', x)).compile({ tokens: 4 });
    const { y } = await program.run({ x: Float32Array.of(-1, 2) }, { into: { y: new Float32Array(2) } });
    if (y[0] !== 0 || y[1] !== 2) throw new Error('wrong result ' + y);
    device.dispose();
    console.log('ok');`;
  const programs = {
    'import.mjs': `import { Graph, openDevice } from 'node-moe';\n${body}`,
    'require.cjs': `const { Graph, openDevice } = require('node-moe');\n(async () => {${body}})();`,
  };
  for (const [name, text] of Object.entries(programs)) {
    writeFileSync(join(project, name), text);
    const printed = execFileSync(process.execPath, [name], { cwd: project, env, encoding: 'utf8' });
    if (printed !== 'ok\n') throw new Error(`${name} printed ${printed}`);
  }
  const doctor = execFileSync(process.execPath, ['node_modules/node-moe/dist/cli/main.js', 'doctor', '--json'], {
    cwd: project,
    env,
    encoding: 'utf8',
  });
  // Without a GPU the library, if it was built, must still load and say why it finds none.
  const { cuda } = JSON.parse(doctor);
  const wrong = builtLibrary() ? ['noLibrary', 'other'].includes(cuda.reason) : cuda.reason !== 'noLibrary';
  if (wrong) throw new Error(`doctor says of cuda: ${JSON.stringify(cuda)}`);
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  console.log(
    `node-moe ${version}: ${(size / 1e6).toFixed(2)} MB packed, ${(unpackedSize / 1e6).toFixed(2)} MB unpacked; import, require and doctor work; cuda: ${cuda.reason || 'available'}`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
