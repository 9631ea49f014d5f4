// Builds and runs the native tests (doctest). Options: --sanitize=address,undefined | thread, --filter=<doctest test cases>.
// Under the thread sanitizer only those that run more than one thread are built.
import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: { sanitize: { type: 'string', default: '' }, filter: { type: 'string', default: '' } },
});
const root = fileURLToPath(new URL('..', import.meta.url));
const folder = `${root}build-tests${values.sanitize && `-${values.sanitize.replace(',', '-')}`}`;
const tests = values.sanitize === 'thread' ? 'moe_thread_tests' : 'moe_tests';
const run = (command, args) => execFileSync(command, args, { cwd: root, stdio: 'inherit' });

run('cmake', ['-S', root, '-B', folder, '-DMOE_TESTS=ON', `-DMOE_SANITIZE=${values.sanitize}`]);
run('cmake', ['--build', folder, '--parallel', String(availableParallelism()), '--target', tests]);
run(`${folder}/${tests}`, values.filter ? [`--test-case=${values.filter}`] : []);
