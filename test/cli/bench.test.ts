import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeMoe, tiny } from './run.ts';

/** Sizes that run in a moment; every one differs from that of the preset. */
const small = ['--hidden', '256', '--intermediate', '128', '--experts', '8', '--top-k', '2', '--rounds', '3', '--warm'];

describe('bench', () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-bench-'));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  async function json(...args: string[]) {
    const { code, stdout, stderr } = await nodeMoe(['bench', ...args, '--json']);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    return JSON.parse(stdout);
  }

  it('dense gives each row its figures and its share of the limit that binds', async () => {
    const page = join(folder, 'roofline.html');
    const sizes = ['--in', '256', '--out', '512', '--tokens', '1,16', '--rounds', '3', '--threads', '1'];
    const run = await json('dense', ...sizes, '--weights', 'f32,int8', '--activation', 'exact', '--html', page);
    assert.deepEqual(Object.keys(run), ['machine', 'isa', 'limits', 'warm', 'rows']);
    assert.equal(run.machine.threads, 1);
    assert.equal(run.isa, run.machine.isa);
    assert.deepEqual(
      run.rows.map(({ weights, tokens }: { weights: string; tokens: number }) => [weights, tokens]),
      [
        ['f32', 1],
        ['f32', 16],
        ['int8', 1],
        ['int8', 16],
      ],
    );
    const { f32OperationsPerSecond, bf16OperationsPerSecond } = run.limits;
    for (const row of run.rows) {
      const { weights, tokens, ms, bytes, gigabytesPerSecond, teraoperationsPerSecond, share, limit } = row;
      const { readBytesPerSecond } = row;
      assert.ok(readBytesPerSecond > 0 && readBytesPerSecond <= run.limits.readBytesPerSecond);
      const count = 2 * tokens * 256 * 512;
      assert.ok(Math.abs(teraoperationsPerSecond - count / ms / 1e9) < 1e-9);
      assert.ok(bytes >= 256 * 512 * (weights === 'f32' ? 4 : 1));
      assert.ok(Math.abs(gigabytesPerSecond - bytes / ms / 1e6) < 1e-9);
      const peak =
        weights === 'f32' ? f32OperationsPerSecond : Math.max(f32OperationsPerSecond, bf16OperationsPerSecond);
      const [byMemory, byArithmetic] = [bytes / readBytesPerSecond, count / peak];
      assert.ok(Math.abs(share - (1000 * Math.max(byMemory, byArithmetic)) / ms) < 1e-9);
      assert.equal(limit, byMemory >= byArithmetic ? 'memory' : 'arithmetic');
    }
    const html = await readFile(page, 'utf8');
    assert.equal(html.split('<circle').length - 1, 4);
    assert.ok(!/<script|https?:\/\//.test(html));
  });

  it('experts count the bytes and products of the experts that tokens choose', async () => {
    const { rows } = await json('experts', ...small, '--weights', 'bf16', '--tokens', '1,64', '--isa', 'plain');
    const expert = 3 * 256 * 128;
    const [one, many] = rows;
    assert.deepEqual([one.operations.bf16, many.operations.bf16], [2 * 2 * expert, 64 * 2 * 2 * expert]);
    assert.ok(one.bytes >= 2 * 2 * expert && one.bytes < 1.2 * 2 * 2 * expert);
    assert.equal(many.limit, 'arithmetic');
    assert.equal(many.shape, 'qwen3-30b-a3b hidden=256 intermediate=128 experts=8 topK=2');
  });

  it('parts stand beside the plain bank', async () => {
    const args = [...small, '--weights', 'int4:128:symmetric', '--tokens', '1'];
    const { rows } = await json('sparse', ...args);
    assert.equal(rows.length, 4);
    for (const { against } of rows) assert.equal(against, 'int4:128:symmetric');
    assert.equal(rows[1].operations.int8 * 2, rows[0].operations.int8);
    assert.equal((await json('lowrank', ...args, '--rank', '8')).rows.length, 5);
  });

  it('routing, attention, operations and a model have rows', async () => {
    assert.equal((await json('routing', ...small, '--tokens', '4')).rows.length, 2);
    const heads = ['--heads', '4', '--kv-heads', '2', '--head-dim', '64', '--keys', '100'];
    const attention = await json('attention', ...small, ...heads, '--tokens', '1,8', '--weights', 'f32');
    assert.deepEqual(
      attention.rows.map((row: { operations: { f32: number } }) => row.operations.f32),
      [4 * 4 * 64 * 100, 4 * 4 * 64 * (8 * 92 + 36)],
    );
    const operations = await json('operations', ...small, ...heads.slice(0, -2), '--tokens', '16');
    assert.equal(operations.rows.length, 9);
    const model = await json('model', tiny, '--tokens', '1,8', '--rounds', '1');
    assert.ok(model.rows[0].bytes > 0 && model.rows[1].bytes > model.rows[0].bytes);
  });

  it('a model of random weights needs no folder', async () => {
    const sizes = [...small.slice(0, -1), '--heads', '4', '--kv-heads', '2', '--head-dim', '32', '--layers', '2'];
    const { rows } = await json('model', ...sizes, '--weights', 'int8', '--tokens', '8');
    assert.match(rows[0].shape, /^olmoe .*, 2 layers$/);
    assert.equal(rows[0].operations.int8, 2 * 8 * 2 * (2 * 3 * 256 * 128));
    const refused = await nodeMoe(['bench', 'model', '--shape', 'switch-base-8']);
    assert.notEqual(refused.code, 0);
    assert.match(refused.stderr, /UNSUPPORTED shape/);
  });

  it('compares two files row by row', async () => {
    const [before, after] = [join(folder, 'before.json'), join(folder, 'after.json')];
    const row = (ms: number, share: number) => ({
      work: 'dense',
      shape: 'a 1→2',
      tokens: 1,
      weights: 'int8',
      ms,
      share,
    });
    await writeFile(before, JSON.stringify({ rows: [row(2, 0.4), { ...row(1, 1), tokens: 8 }] }));
    await writeFile(after, JSON.stringify({ rows: [row(1, 0.8)] }));
    const { rows } = await json('compare', before, after);
    assert.deepEqual(rows, [
      {
        ...{ work: 'dense', shape: 'a 1→2', tokens: 1, weights: 'int8' },
        ...{ before: { ms: 2, share: 0.4 }, after: { ms: 1, share: 0.8 }, ratio: 0.5 },
      },
    ]);
    await writeFile(after, '{"rows": [{}]}');
    const { code, stderr } = await nodeMoe(['bench', 'compare', before, after]);
    assert.equal(code, 1, stderr);
    assert.ok(stderr.includes('after.json') && stderr.includes('rows.0.work'), stderr);
  });

  it('refuses an unknown shape, more choices than experts, and latent attention', async () => {
    for (const [args, received] of [
      [['experts', '--shape', 'gpt-5'], /INVALID_ARGUMENT shape/],
      [['experts', '--shape', 'olmoe', '--top-k', '65'], /INVALID_ARGUMENT topK/],
      [['attention', '--shape', 'deepseek-v2-lite'], /UNSUPPORTED shape/],
    ] as const) {
      const { code, stderr } = await nodeMoe(['bench', ...args]);
      assert.notEqual(code, 0);
      assert.match(stderr, received);
    }
  });
});
