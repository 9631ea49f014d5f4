import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeMoe, root, text, tiny } from './run.ts';

describe('commands with --json', () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-cli-'));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  /** Runs a command that must succeed and say nothing but one JSON document. */
  async function json(...args: string[]) {
    const { code, stdout, stderr } = await nodeMoe([...args, '--json']);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    return JSON.parse(stdout);
  }

  it('doctor lists the devices with their limits, and why there is no GPU or that there is one', async () => {
    const { devices, cuda } = await json('doctor', '--threads', '1');
    const cpu = devices.find(({ name }: { name: string }) => name === 'cpu');
    assert.equal(cpu.description.threads, 1);
    assert.ok(cpu.limits.readBytesPerSecond > 0);
    assert.equal(typeof cuda.available, 'boolean');
    assert.ok(cuda.available || (cuda.expected && cuda.received && cuda.fix));
  });

  it('compress, then inspect, evaluate and generate on what it wrote', async () => {
    const [out, report] = [join(folder, 'merged'), join(folder, 'report.html')];
    const calibrate = ['--calibrate', text('node.calibrate'), text('types.calibrate')];
    const settings = ['--groups', '8', ...calibrate, '--calibration-tokens', '1024', '--weights', 'int4'];
    const made = await json('compress', tiny, '--out', out, '--recipe', 'merge', ...settings, '--report', report);
    assert.deepEqual(Object.keys(made), ['recipe', 'settings', 'layers', 'bytes', 'parameters', 'seconds']);
    assert.equal(made.recipe, 'merge');
    assert.equal(made.settings.recover, 'least-squares');
    assert.deepEqual(
      made.settings.steps.map(({ step, groups, weights }: Record<string, unknown>) => [step, groups ?? weights]),
      [
        ['group', 8],
        ['merge', undefined],
        ['quantize', 'int4'],
      ],
    );
    const keys = ['layer', 'experts', 'groups', 'labels', 'frequencies', 'widths', 'error', 'bytes', 'parameters'];
    assert.deepEqual(Object.keys(made.layers[0]), keys);
    assert.equal(made.layers.length, 4);
    assert.ok(made.bytes.after < made.bytes.before && made.parameters.after < made.parameters.before);
    const html = await readFile(report, 'utf8');
    assert.ok(html.includes('<svg') && !/<script|https?:\/\//.test(html.replaceAll('http://www.w3.org/', '')));
    assert.deepEqual((await readdir(folder)).sort(), ['merged', 'report.html']);

    const inspected = await json('inspect', out);
    assert.equal(inspected.bytes, made.bytes.after);
    assert.deepEqual(
      Object.values(inspected.compressed.groups),
      made.layers.map(({ groups }: { groups: number }) => groups),
    );
    assert.deepEqual(inspected.config.layers[0].block.moe.merged.groupOf, made.layers[0].labels);

    const file = text('node.evaluate');
    const { models } = await json('evaluate', tiny, out, '--text', file, '--windows', '4');
    assert.deepEqual(Object.keys(models[0]), [
      'model',
      'device',
      'weights',
      'tokens',
      'nll',
      'perplexity',
      'bytes',
      'tokensPerSecond',
      'texts',
    ]);
    assert.equal(models[0].tokens, 4 * 255);
    assert.deepEqual(models[0].texts[file], { tokens: 4 * 255, nll: models[0].nll });
    assert.equal(models[0].perplexity, Math.exp(models[0].nll));
    assert.equal(models[1].bytes.disk, made.bytes.after);
    assert.ok(models[1].nll > models[0].nll && models[1].nll < models[0].nll + 1);

    const greedy = ['--prompt', 'interface ', '--max-tokens', '8'];
    const generated = await json('generate', out, ...greedy);
    assert.deepEqual(Object.keys(generated), [
      'text',
      'ids',
      'promptTokens',
      'prefillTokensPerSecond',
      'decodeTokensPerSecond',
    ]);
    assert.equal(generated.ids.length, 8);
    // Without --json the same text streams to stdout after its prompt, alone.
    const { stdout } = await nodeMoe(['generate', out, ...greedy]);
    assert.equal(stdout, `interface ${generated.text}\n`);
  });

  it('a float format, the reference device and --threads, which it ignores', async () => {
    const args = ['--text', text('types.evaluate'), '--windows', '1', '--window', '32', '--weights', 'f32'];
    const [onReference] = (await json('evaluate', tiny, ...args, '--device', 'reference', '--threads', '2')).models;
    const [onCpu] = (await json('evaluate', tiny, ...args, '--device', 'cpu', '--threads', '2')).models;
    assert.equal(onReference.device, 'reference');
    assert.equal(onCpu.weights, 'f32');
    assert.ok(Math.abs(onReference.nll - onCpu.nll) < 2e-3);
  });

  it('keys and values cached in halves move the loss, and little', async () => {
    const args = ['--text', text('types.evaluate'), '--windows', '1'];
    const [inFloats] = (await json('evaluate', tiny, ...args)).models;
    const [inHalves] = (await json('evaluate', tiny, ...args, '--cache', 'bf16')).models;
    assert.notEqual(inHalves.nll, inFloats.nll);
    assert.ok(Math.abs(inHalves.nll - inFloats.nll) < 0.02);
  });

  it('--help of every command has an example', async () => {
    for (const command of ['doctor', 'inspect', 'evaluate', 'compare', 'generate', 'compress', 'bench']) {
      const { code, stdout, stderr } = await nodeMoe([command, '--help']);
      assert.equal(code, 0);
      assert.equal(stderr, '');
      assert.ok(stdout.includes(`Example:\n  $ node-moe ${command}`) && stdout.includes('--help'), stdout);
    }
    const version = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')).version;
    assert.equal((await nodeMoe(['--version'])).stdout, `${version}\n`);
  });
});
