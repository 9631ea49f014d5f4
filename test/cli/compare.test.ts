import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LayerChoices, routingOverlap } from '../../lib/cli/routing-overlap.ts';
import { compress } from '../../lib/compress/compress.ts';
import { nodeMoe, text, tiny } from './run.ts';

describe('compare', function () {
  this.timeout(240_000);
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-cli-'));
    const options = { calibrate: [text('node.calibrate')], calibrationTokens: 1024, recover: 'none', device: 'cpu' };
    await compress(tiny, { ...options, out: join(folder, 'merged'), recipe: 'merge', groups: 8 });
    const prune = { steps: [{ step: 'prune', method: 'frequency', experts: 12 }], recover: 'none' };
    await compress(tiny, { ...options, out: join(folder, 'pruned'), recipe: prune as never });
  });
  after(() => rm(folder, { recursive: true, force: true }));

  async function compared(a: string, b: string, ...more: string[]) {
    const args = ['--text', text('node.evaluate'), '--windows', '2', '--rounds', '1', ...more];
    const { code, stdout, stderr } = await nodeMoe(['compare', a, b, ...args, '--json']);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    return JSON.parse(stdout);
  }

  it('a model is like itself', async () => {
    const result = await compared(tiny, tiny);
    const keys = ['text', 'device', 'tokens', 'models', 'greedyAgreement', 'routing'];
    assert.deepEqual(Object.keys(result), keys);
    const [a, b] = result.models;
    assert.deepEqual([a.nll, a.bytes, a.parameters, a.perplexity], [b.nll, b.bytes, b.parameters, Math.exp(a.nll)]);
    assert.ok(a.prefillTokensPerSecond > 0 && a.decodeTokensPerSecond > 0);
    assert.equal(result.tokens, 512);
    assert.equal(result.greedyAgreement, 1);
    assert.equal(result.routing.mean, 1);
  });

  it('a merged model: what evaluate and compress say, original experts compared', async () => {
    const merged = join(folder, 'merged');
    const { models, greedyAgreement, routing } = await compared(tiny, merged);
    const evaluated = await nodeMoe([
      'evaluate',
      tiny,
      merged,
      '--text',
      text('node.evaluate'),
      '--windows',
      '2',
      '--json',
    ]);
    const rows = JSON.parse(evaluated.stdout).models;
    for (const at of [0, 1]) {
      assert.equal(models[at].nll, rows[at].nll);
      assert.equal(models[at].bytes.disk, rows[at].bytes.disk);
    }
    const { config } = JSON.parse((await nodeMoe(['inspect', tiny, '--json'])).stdout);
    const expert = 3 * config.hidden * config.layers[0].block.moe.width;
    // 8 of 16 experts are gone in each of 4 layers.
    assert.equal(models[0].parameters - models[1].parameters, 4 * 8 * expert);
    assert.ok(models[1].bytes.weights < models[0].bytes.weights);
    assert.ok(greedyAgreement > 0.2 && greedyAgreement < 1);
    // Attention before the first block is the same.
    assert.deepEqual(routing.layers[0], { layer: 0, overlap: 1, by: 'experts' });
    assert.ok(routing.layers[3].overlap > 0.3 && routing.layers[3].overlap < 1);
    const mean = routing.layers.reduce((sum: number, { overlap }: { overlap: number }) => sum + overlap / 4, 0);
    assert.ok(Math.abs(routing.mean - mean) < 1e-12);
  });

  it('a pruned model: choices of the experts that stay', async () => {
    const { routing } = await compared(tiny, join(folder, 'pruned'));
    for (const { by, overlap } of routing.layers) assert.ok(by === 'experts' && overlap > 0.3 && overlap < 1);
    const again = await compared(join(folder, 'pruned'), join(folder, 'pruned'));
    assert.equal(again.routing.mean, 1);
  });

  it('prints a table side by side', async () => {
    const args = ['--text', text('node.evaluate'), '--windows', '1', '--rounds', '1'];
    const { stdout } = await nodeMoe(['compare', tiny, join(folder, 'merged'), ...args]);
    const lines = ['disk', 'weights in memory', 'parameters', 'NLL', 'perplexity', 'prefill', 'decode'];
    for (const line of lines) assert.match(stdout, new RegExp(`^${line}.* %$`, 'm'));
    assert.match(stdout, /^greedy tokens agree: [\d.]+ %$/m);
    assert.match(stdout, /^ {2}layer 0: 100\.0 %$/m);
  });

  it('refuses a short text, and models of which one is not there', async () => {
    const short = join(folder, 'short.txt');
    await writeFile(short, 'interface ');
    const refused = await nodeMoe(['compare', tiny, tiny, '--text', short]);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /node-moe: INVALID_ARGUMENT [^\n]*short\.txt[^\n]+ \(fix: [^\n]+\)\n$/);
    const missing = await nodeMoe([
      'compare',
      tiny,
      join(folder, 'none'),
      '--text',
      text('node.evaluate'),
      '--windows',
      '1',
    ]);
    assert.match(missing.stderr, /node-moe: FILE_UNREADABLE /);
    assert.match((await nodeMoe(['compare', '--help'])).stdout, /Example:\n {2}\$ node-moe compare/);
  });
});

describe('routingOverlap', () => {
  const choices = (ids: number[], experts: number, slotOf?: number[]): LayerChoices => ({
    layer: 0,
    topK: 2,
    experts,
    slotOf: slotOf && Int32Array.from(slotOf),
    ids: Int32Array.from(ids),
  });

  it('counts the choices that both make, a token at a time', () => {
    const [a, b] = [choices([0, 1, 2, 3], 4), choices([1, 0, 3, 1], 4)];
    assert.deepEqual(routingOverlap(a, b), { layer: 0, overlap: 0.75, by: 'experts' });
  });

  it('finds original experts behind the rows of a pruned router', () => {
    const pruned = choices([0, 1, 0, 1], 2, [-1, 0, -1, 1]); // experts 1 and 3 stay
    assert.deepEqual(routingOverlap(choices([1, 3, 0, 3], 4), pruned), { layer: 0, overlap: 0.75, by: 'experts' });
    assert.deepEqual(routingOverlap(pruned, choices([1, 3, 0, 3], 4)), { layer: 0, overlap: 0.75, by: 'experts' });
  });

  it('compares stored experts where several originals went into one', () => {
    const merged = choices([0, 1], 2, [0, 0, 1, -1]);
    assert.deepEqual(routingOverlap(choices([1, 3], 4), merged), { layer: 0, overlap: 0.5, by: 'slots' });
    assert.deepEqual(routingOverlap(merged, choices([1, 3], 4)), { layer: 0, overlap: 0.5, by: 'slots' });
    assert.deepEqual(routingOverlap(merged, merged), { layer: 0, overlap: 1, by: 'slots' });
  });

  it('says where there is nothing to compare', () => {
    const nothing = { layer: 0, overlap: null, by: 'nothing' };
    assert.deepEqual(routingOverlap(choices([0, 1], 4), choices([0, 1], 8)), nothing);
    const [one, other] = [choices([0, 1], 2, [0, 0, 1]), choices([0, 1], 2, [0, 1, 1])];
    assert.deepEqual(routingOverlap(one, other), nothing);
  });
});
