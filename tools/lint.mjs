// Formats and lints: Biome over TypeScript, clang-format over C++. `--write` mends what can be mended.
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const require = createRequire(import.meta.url);
const write = process.argv.includes('--write');
const run = (script, args) => execFileSync(process.execPath, [script, ...args], { stdio: 'inherit' });

const biome = join(dirname(require.resolve('@biomejs/biome/package.json')), 'bin', 'biome');
const native = execFileSync('git', ['ls-files', '-co', '--exclude-standard', 'native', 'test', 'tools'], {
  encoding: 'utf8',
})
  .split('\n')
  .filter((file) => /\.(cc|h|inl)$/.test(file));
const clangFormat = join(dirname(require.resolve('clang-format-node/package.json')), 'build', 'cli.js');

for (const [script, args] of [
  [biome, ['check', '--error-on-warnings', ...(write ? ['--write'] : []), '.']],
  [clangFormat, [...(write ? ['-i'] : ['--dry-run', '--Werror']), ...native]],
]) {
  try {
    run(script, args);
  } catch {
    process.exitCode = 1;
  }
}
