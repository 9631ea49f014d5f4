/** The gates on compiled CUDA kernels, on stored words of the compiler and the disassembler: that they pass, and that they fail. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { occupancy } from '../../tools/cuda/occupancy.mjs';

const root = fileURLToPath(new URL('../../', import.meta.url));
const sample = (name: string): string => join(root, 'test/tools/samples', name);

describe('gates on compiled CUDA kernels', () => {
  let folder = '';
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'node-moe-gates-'));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  /** Exit status, and the lines of stdout and stderr, of a script of tools/cuda. */
  function run(script: string, ...args: string[]): { status: number | null; out: string[]; failures: string[] } {
    const child = spawnSync(process.execPath, [join(root, 'tools/cuda', script), ...args], { encoding: 'utf8' });
    const lines = (text: string): string[] => text.split('\n').filter(Boolean);
    return { status: child.status, out: lines(child.stdout), failures: lines(child.stderr) };
  }

  function written(name: string, value: unknown): string {
    const file = join(folder, name);
    writeFileSync(file, typeof value === 'string' ? value : JSON.stringify(value));
    return file;
  }

  describe('registers', () => {
    const check = (names: string[], table: unknown, ...more: string[]): ReturnType<typeof run> => {
      const text = names.map((name) => readFileSync(sample(`${name}.ptxas.txt`), 'utf8')).join('');
      return run(
        'check-registers.mjs',
        '--ptxas',
        written('ptxas.txt', text),
        '--table',
        written('table.json', table),
        ...more,
      );
    };
    const rowSum = { row_sum: { registers: { sm_80: 14, sm_90a: 16 } } };

    it('pass kernels within the table, folding template arguments', () => {
      const { status, out, failures } = check(['row_sum'], rowSum);
      assert.deepEqual(failures, []);
      assert.equal(status, 0);
      assert.deepEqual(out, [
        'row_sum sm_90a: 16 registers, 1024 bytes shared',
        'row_sum sm_80: 14 registers, 1024 bytes shared',
      ]);
    });

    it('fail above the table, naming the instance', () => {
      const { status, failures } = check(['row_sum'], { row_sum: { registers: { sm_80: 13, sm_90a: 16 } } });
      assert.equal(status, 1);
      assert.deepEqual(failures, [
        'node-moe: row_sum<256> sm_80: 14 registers, allowed 13',
        'node-moe: row_sum<128> sm_80: 14 registers, allowed 13',
      ]);
    });

    it('fail on spills, stack frames and serialized wgmma, whatever the table says', () => {
      const registers = { sm_80: 255, sm_90a: 255 };
      const spilling = check(['spilling'], { spilling: { registers } });
      assert.equal(spilling.status, 1);
      assert.match(spilling.failures.join('\n'), /spilling sm_80: spills 240 bytes of stores and 264 of loads/);
      const indexed = check(['indexed_in_loop'], { indexed_in_loop: { registers } });
      assert.equal(indexed.status, 1);
      assert.match(indexed.failures.join('\n'), /indexed_in_loop sm_90a: stack frame of 128 bytes/);
      const serialized = check(['serialized'], { serialized: { registers } });
      assert.equal(serialized.status, 1);
      assert.match(serialized.failures.join('\n'), /wgmma.* serialized .* in the function 'serialized'/);
    });

    it('fail on a kernel that the table does not know, and on one that is gone', () => {
      const table = { gone: { registers: { sm_80: 1 } } };
      const { status, failures } = check(['row_sum'], table);
      assert.equal(status, 1);
      assert.match(failures[0] ?? '', /^node-moe: row_sum sm_90a: is not in registers.json: add it with: .+ --write$/);
      assert.match(failures.at(-1) ?? '', /^node-moe: gone: is in registers.json but no kernel has that name/);
    });

    it('--write keeps architectures that were not built', () => {
      const table = { gone: {}, row_sum: { registers: { sm_80: 1, sm_120: 40 } } };
      assert.equal(check(['row_sum'], table, '--write').status, 0);
      assert.deepEqual(JSON.parse(readFileSync(join(folder, 'table.json'), 'utf8')), {
        row_sum: { registers: { sm_120: 40, sm_80: 14, sm_90a: 16 } },
      });
    });

    it('say what to do where there is nothing to read', () => {
      const none = run('check-registers.mjs', '--ptxas', join(folder, 'none.txt'));
      assert.equal(none.status, 1);
      assert.match(none.failures.join('\n'), /^node-moe: .*none.txt cannot be read \(ENOENT\): npm run build:cuda$/);
      const empty = run('check-registers.mjs', '--ptxas', written('empty.txt', ''));
      assert.match(empty.failures.join('\n'), /^node-moe: .*empty.txt names no kernel/);
    });
  });

  it('occupancy is bound by registers, threads, blocks or shared memory', () => {
    const kernel = (registers: number): { registers: number; shared: number } => ({ registers, shared: 1024 });
    assert.equal(occupancy('sm_80', kernel(14), { threads: 256 }), 1);
    assert.equal(occupancy('sm_80', kernel(14), { threads: 768 }), 0.75);
    assert.equal(occupancy('sm_80', kernel(14), { threads: 32 }), 0.5);
    assert.equal(occupancy('sm_80', kernel(14), { threads: 256, shared: 40960 }), 0.375);
    assert.equal(occupancy('sm_90a', kernel(14), { threads: 256, shared: 40960 }), 0.625);
    assert.equal(occupancy('sm_80', kernel(128), { threads: 256 }), 0.25);
    // 129 registers a thread take 17 units of a warp: 3 warps in each of the four files.
    assert.equal(occupancy('sm_80', kernel(129), { threads: 256 }), 0.125);
    assert.equal(occupancy('sm_70', kernel(14), { threads: 256 }), undefined);
  });

  describe('machine code', () => {
    const check = (name: string, rules: unknown): ReturnType<typeof run> => {
      const sass = sample(`${name}.sass.txt`);
      return run('check-sass.mjs', '--sass', sass, '--rules', written('rules.json', rules));
    };
    const noLocal = { kernel: '.*', architecture: 'sm_.*', notInLoops: ['LDL', 'STL'] };

    it('pass a kernel with wide loads and nothing local', () => {
      const wide = { kernel: 'row_sum<.*>', architecture: 'sm_80', contains: ['LDG.128'] };
      const { status, failures } = check('row_sum', [noLocal, wide]);
      assert.deepEqual(failures, []);
      assert.equal(status, 0);
    });

    it('fail on local memory in a loop, and only there', () => {
      const { status, failures } = check('indexed_in_loop', [noLocal]);
      assert.equal(status, 1);
      assert.deepEqual(failures, [
        'node-moe: indexed_in_loop sm_80: has 1 LDL inside a loop, allowed none; the first at 0x560: LDL R3, [R3]',
      ]);
      assert.match(readFileSync(sample('indexed_once.sass.txt'), 'utf8'), /LDL/);
      assert.equal(check('indexed_once', [noLocal]).status, 0);
    });

    it('fail where an instruction is missing, and take a part of a name for none', () => {
      for (const wanted of ['HGMMA', 'LDG.64', 'LD', 'G.128']) {
        const { status, failures } = check('row_sum', [
          { kernel: 'row_sum<128>', architecture: 'sm_80', contains: [wanted] },
        ]);
        assert.equal(status, 1);
        assert.deepEqual(failures, [`node-moe: row_sum<128> sm_80: has no ${wanted}, which it must contain`]);
      }
    });

    it('fail on a rule without a kernel, but not on an architecture that was not built', () => {
      const rule = { kernel: 'row_sums', architecture: 'sm_80', contains: ['HMMA'] };
      const { status, failures } = check('row_sum', [rule]);
      assert.equal(status, 1);
      assert.deepEqual(failures, [
        'node-moe: the rule for row_sums on sm_80 applies to no kernel: correct or remove it',
      ]);
      assert.equal(check('row_sum', [{ ...rule, architecture: 'sm_90a' }]).status, 0);
    });

    it('find loops by where control goes, not by where the code lies', () => {
      const code = (name: string, lines: string[]): string =>
        [
          '	.target	sm_90a',
          `		Function : ${name}`,
          ...lines.map((line, index) => `        /*${(16 * index).toString(16).padStart(4, '0')}*/   ${line} ;`),
        ].join('\n');
      // A slow path behind the end that jumps back is no loop; a loop whose head is entered from behind it is one.
      const slow = code('slow_path', [
        'BRA.DIV UR4, 0x0040',
        'MOV R0, R1',
        'LDL R2, [R1]',
        'EXIT',
        'NOP',
        'BRA 0x0010',
      ]);
      const turned = code('turned', [
        'BRA 0x0030',
        'EXIT',
        'LDL R2, [R1]',
        '@!UP0 IADD3 R2, R2, 0x1, RZ',
        'BRA P0, 0x20',
        'BRA 0x10',
      ]);
      const sass = written('made.txt', `${slow}\n${turned}\n`);
      const { failures } = run('check-sass.mjs', '--sass', sass, '--rules', written('rules.json', [noLocal]));
      assert.deepEqual(failures, [
        'node-moe: turned sm_90a: has 1 LDL inside a loop, allowed none; the first at 0x20: LDL R2, [R1]',
      ]);
    });
  });

  describe('toolkit', () => {
    const toolkit = (env: NodeJS.ProcessEnv): ReturnType<typeof spawnSync> =>
      spawnSync(process.execPath, [join(root, 'tools/cuda/toolkit.mjs')], { env, encoding: 'utf8' });

    it('does not pass over a compiler that was named and cannot be used', () => {
      for (const env of [{ CUDACXX: join(folder, 'nvcc') }, { CUDA_HOME: folder }]) {
        const { status, stderr } = toolkit({ ...process.env, ...env });
        assert.equal(status, 1);
        assert.match(
          String(stderr),
          /^node-moe: CUDA\w+ is .+, where there is no nvcc that can be run: .+ unset CUDA\w+\n$/,
        );
      }
    });

    it('refuses one that is too old', () => {
      const nvcc = join(folder, 'nvcc');
      writeFileSync(nvcc, '#!/bin/sh\necho "Cuda compilation tools, release 12.4, V12.4.131"\n', { mode: 0o755 });
      const { status, stderr } = toolkit({ ...process.env, CUDACXX: nvcc });
      assert.equal(status, 1);
      assert.match(String(stderr), /^node-moe: CUDACXX is .+, where CUDA is 12\.4 and must be ≥ 13\.0: .+\n$/);
    });
  });
});
