import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeMoe, text, tiny } from './run.ts';

describe('failures', () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'node-moe-cli-'));
    await mkdir(join(folder, 'broken'));
    await writeFile(join(folder, 'broken/config.json'), '{');
    await writeFile(join(folder, 'short.txt'), 'interface ');
    await mkdir(join(folder, 'old'));
    await writeFile(join(folder, 'old/config.json'), '{"old":true}');
  });
  after(() => rm(folder, { recursive: true, force: true }));

  const long = text('node.calibrate');
  const cases: [name: string, code: string, args: () => string[]][] = [
    ['an unknown command', 'INVALID_ARGUMENT', () => ['destroy']],
    ['an unknown option', 'INVALID_ARGUMENT', () => ['inspect', tiny, '--colour']],
    ['a missing option', 'INVALID_ARGUMENT', () => ['evaluate', tiny]],
    ['a bad format', 'INVALID_ARGUMENT', () => ['evaluate', tiny, '--text', long, '--weights', 'int5']],
    ['a bad number', 'INVALID_ARGUMENT', () => ['generate', tiny, '--prompt', 'a', '--max-tokens', '1.5']],
    ['an empty prompt', 'INVALID_ARGUMENT', () => ['generate', tiny, '--prompt', '']],
    ['a short text', 'INVALID_ARGUMENT', () => ['evaluate', tiny, '--text', join(folder, 'short.txt')]],
    ['a missing text', 'FILE_UNREADABLE', () => ['evaluate', tiny, '--text', join(folder, 'none')]],
    ['a missing model', 'FILE_UNREADABLE', () => ['inspect', join(folder, 'none')]],
    ['a broken model', 'CONFIG_INVALID', () => ['inspect', join(folder, 'broken')]],
    ['no such device', 'DEVICE_UNAVAILABLE', () => ['evaluate', tiny, '--text', long, '--device', 'abacus']],
    ['too many groups', 'RECIPE_INVALID', () => merge('new', '--groups', '17')],
    ['calibration without a window', 'RECIPE_INVALID', () => merge('new', '--calibration-tokens', '100')],
    ['an output that exists', 'FILE_EXISTS', () => merge('old')],
    ['the model as output', 'RECIPE_INVALID', () => ['compress', tiny, '--out', tiny, '--force', ...calibrated]],
    ['an unwritable output', 'FILE_UNWRITABLE', () => merge('short.txt/new')],
    ['an unwritable report', 'FILE_UNWRITABLE', () => merge('new', '--report', join(folder, 'none/report.html'))],
  ];
  const calibrated = ['--groups', '8', '--calibrate', long];
  const merge = (out: string, ...more: string[]): string[] => [
    'compress',
    tiny,
    '--out',
    join(folder, out),
    ...calibrated,
    ...more,
  ];

  for (const [name, errorCode, args] of cases) {
    it(`${name}: one line with ${errorCode} and a fix`, async () => {
      const { code, stdout, stderr } = await nodeMoe(args());
      assert.equal(code, 1, stderr);
      assert.equal(stdout, '');
      assert.match(stderr, new RegExp(`^node-moe: ${errorCode} [^\\n]+ \\(fix: [^\\n]+\\)\\n$`));
      assert.deepEqual((await readdir(folder)).sort(), ['broken', 'old', 'short.txt']);
      assert.equal(await readFile(join(folder, 'old/config.json'), 'utf8'), '{"old":true}');
    });
  }

  for (const [signal, exitCode] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    it(`${signal} ends compress with ${exitCode} and leaves the old folder alone`, async () => {
      const { code, stdout, stderr } = await nodeMoe(merge('old', '--force'), (child) => {
        child.stderr?.once('data', () => child.kill(signal));
      });
      assert.equal(code, exitCode, stderr);
      assert.equal(stdout, '');
      assert.match(stderr, /\nnode-moe: ABORTED [^\n]+\n$/);
      assert.deepEqual((await readdir(folder)).sort(), ['broken', 'old', 'short.txt']);
      assert.equal(await readFile(join(folder, 'old/config.json'), 'utf8'), '{"old":true}');
    });
  }

  it('a reader that goes away ends generate quietly', async () => {
    const args = ['generate', tiny, '--prompt', 'interface ', '--max-tokens', '600'];
    const { code, stderr } = await nodeMoe(args, (child) => {
      child.stdout?.once('data', () => child.stdout?.destroy());
    });
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
  });
});
