// Builds and runs the native tests (doctest). Options: --sanitize=address,undefined | thread, --filter=<doctest test cases>.
// Under the thread sanitizer only those are built that run more than one thread, and the simt device's own, whose fibers it
// sees as threads; the kernels on simt are run so by tools/test-simt.mjs. Most cases are one thread, so two parts run at once.
import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { twoAtOnce } from './two-at-once.mjs';

const { values } = parseArgs({
  options: { sanitize: { type: 'string', default: '' }, filter: { type: 'string', default: '' } },
});
const root = fileURLToPath(new URL('..', import.meta.url));
const folder = `${root}build-tests${values.sanitize && `-${values.sanitize.replace(',', '-')}`}`;
const threads = values.sanitize === 'thread';
const tests = threads ? ['moe_thread_tests', 'moe_simt_tests'] : ['moe_tests', 'moe_simt_tests'];
const run = (command, args) => execFileSync(command, args, { cwd: root, stdio: 'inherit' });

const settings = { MOE_TESTS: 'ON', MOE_SANITIZE: values.sanitize };
run('cmake', ['-S', root, '-B', folder, ...Object.entries(settings).map(([name, value]) => `-D${name}=${value}`)]);
run('cmake', ['--build', folder, '--parallel', String(availableParallelism()), '--target', ...tests]);

const filter = values.filter ? [`--test-case=${values.filter}`] : [];
const [most, machine] = tests.map((test) => `${folder}/${test}`);
const count = Number(/: (\d+)/.exec(execFileSync(most, ['--count', ...filter], { encoding: 'utf8' }))?.[1]);
const middle = Math.ceil(count / 2);
// (doctest counts the cases of the other half as passed; their assertions are not among its own.)
await twoAtOnce(
  [[most, `--last=${middle}`], [most, `--first=${middle + 1}`], [machine]].map(([command, ...args]) => ({
    command,
    args: [...args, ...filter],
    cwd: root,
  })),
);
