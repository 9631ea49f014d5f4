/** A process that ends at any stage ends with its own code: no crash, no hang. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const child = fileURLToPath(new URL('./exit.child.ts', import.meta.url));

const stages: readonly [stage: string, code: number][] = [
  ['device open', 7],
  ['weight loading', 7],
  ['tensor copying', 7],
  ['program compiled', 7],
  ['running', 7],
  ['running, at once', 7],
  ['running, device disposed', 7],
  ['measuring limits', 7],
  ['in an exit handler', 7],
  ['uncaught error while running', 1],
  ['end of the script, nothing disposed', 7],
  ['end of the script, run pending', 7],
];

describe('exit', function () {
  this.timeout(60000);
  for (const name of ['cpu', 'reference']) {
    for (const [stage, code] of stages) {
      it(`${name}: ${stage}`, async () => {
        const started = spawn(process.execPath, ['--import=tsx', child, stage, name], {
          stdio: ['ignore', 'ignore', 'pipe'],
        });
        let text = '';
        started.stderr.on('data', (data: Buffer) => {
          text += data.toString();
        });
        const timer = setTimeout(() => started.kill('SIGKILL'), 40000);
        const [status, signal] = (await once(started, 'close')) as [number | null, string | null];
        clearTimeout(timer);
        assert.deepEqual([status, signal], [code, null], text);
      });
    }
  }
});
