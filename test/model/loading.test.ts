/** What opening a model holds in memory beside the packed weights. */
import { strict as assert } from 'node:assert';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { writeRandomModel } from '../../lib/bench/random-model.ts';
import { benchShape } from '../../lib/bench/shapes.ts';
import { root } from '../checkpoint/support.ts';

const megabyte = 1e6;
/** Of JavaScript, and of chunks in conversion. */
const allowed = 40 * megabyte;

describe('Model.open, memory', () => {
  // An embedding of 103 MB and a head as large over a layer that is small.
  for (const [name, options] of [
    ['as stored', []],
    ['int4', ['--weights', 'int4:128:symmetric']],
  ] as const) {
    it(`holds little more than the packed weights (${name})`, async () => {
      const folder = await mkdtemp(join(tmpdir(), 'node-moe-'));
      try {
        const shape = benchShape('olmoe', { hidden: 1024, intermediate: 128, experts: 8, heads: 8, kvHeads: 8 });
        await writeRandomModel(folder, shape, 1);
        const program = ['--import=tsx', join(root, 'bench/loading.ts'), folder, '--json', ...options];
        const { stdout } = await promisify(execFile)(process.execPath, program, { cwd: root });
        const { packed, peak } = JSON.parse(stdout) as { packed: number; peak: number };
        assert.ok(packed > 200 * megabyte, `${packed} bytes packed`);
        assert.ok(peak > 0.9 * packed && peak <= 1.1 * packed + allowed, `${peak} bytes for ${packed} packed`);
      } finally {
        await rm(folder, { recursive: true });
      }
    });
  }
});
