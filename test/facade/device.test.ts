/** Opening devices, their options, their memory, and why there is none. */
import assert from 'node:assert/strict';
import type { NativeBackend } from '../../lib/addon.ts';
import { explain } from '../../lib/device/explain.ts';
import { devices, explainDevice, openDevice, Tensor, Weight } from '../../lib/index.ts';
import { linearProgram, moeError, normal } from './support.ts';

describe('devices', () => {
  it('lists cpu and reference with what they are', () => {
    const names = devices().map(({ name, index }) => `${name}:${index}`);
    assert.ok(names.includes('cpu:0') && names.includes('reference:0'), names.join());
  });

  it('opens by name, index and auto', async () => {
    for (const name of ['cpu', 'reference', 'cpu:0']) {
      const device = await openDevice(name);
      assert.equal(`${device.name}:${device.index}`, `${name.split(':')[0]}:0`);
      assert.equal(device.reason, undefined);
      device.dispose();
    }
    const device = await openDevice();
    if (explainDevice('cuda').available) assert.equal(device.name, 'cuda');
    else {
      assert.equal(device.name, 'cpu');
      assert.match(device.reason ?? '', /^cuda: DEVICE_UNAVAILABLE: expected .+, got .+/);
    }
    await device[Symbol.asyncDispose]();
    assert.ok(device.disposed);
  });

  it('passes threads and isa on', async () => {
    const device = await openDevice('cpu', { threads: 1, isa: 'plain' });
    assert.equal(device.description.threads, 1);
    assert.equal(device.description.isa, 'plain');
    device.dispose();
  });

  it('explains', () => {
    const available = { available: true, code: '', reason: '', expected: '', received: '', fix: '' };
    assert.deepEqual(explainDevice('cpu'), available);
    const none = explainDevice('warp');
    assert.equal(none.available, false);
    assert.equal(none.code, 'DEVICE_UNAVAILABLE');
    assert.equal(none.reason, 'noLibrary');
    assert.equal(none.expected, 'moe_warp.so beside the addon');
    assert.equal(none.received, 'no such library');
    assert.ok(none.fix);
    for (const name of ['cpu:7', 'cpu:x', 'cpu:-1']) {
      assert.equal(explainDevice(name).code, 'DEVICE_UNAVAILABLE');
      assert.equal(explainDevice(name).reason, 'indexOutOfRange');
    }
  });

  /** What a backend without a device says. */
  const without = (code: string, argument: string): NativeBackend => {
    return { name: 'cuda', count: 0, code, argument, expected: 'what is needed', received: 'the evidence' };
  };

  it('explains each reason that a GPU backend gives, with a fix of its own', () => {
    const reasons: [word: string, fix: RegExp][] = [
      ['noDriver', /install the NVIDIA driver/],
      ['driverTooOld', /update the NVIDIA driver/],
      ['noDevice', /CUDA_VISIBLE_DEVICES/],
      ['notPermitted', /\/dev\/nvidia\*.*container/],
      ['architectureNotBuilt', /build:cuda/],
      ['outOfMemory', /memory of the GPU/],
    ];
    for (const [word, fix] of reasons) {
      const found = explain(without('DEVICE_UNAVAILABLE', word), 'cuda', 0);
      assert.match(found.fix, fix);
      assert.deepEqual(
        { ...found, fix: '' },
        {
          available: false,
          code: 'DEVICE_UNAVAILABLE',
          reason: word,
          expected: 'what is needed',
          received: 'the evidence',
          fix: '',
        },
      );
    }
  });

  it('explains a reason without a word by its code', () => {
    for (const argument of ['', 'constructor', '/somewhere/moe_cuda.so']) {
      const found = explain(without('DEVICE_UNAVAILABLE', argument), 'cuda', 0);
      assert.equal(found.reason, 'other');
      assert.match(found.fix, /install what is expected/);
    }
    assert.equal(explain(without('OUT_OF_MEMORY', ''), 'cuda', 0).reason, 'outOfMemory');
    assert.match(explain(without('INTERNAL', ''), 'cuda', 0).fix, /report it/);
    assert.match(explain(without('NEW_CODE', ''), 'cuda', 0).fix, /errors\.md/);
    assert.equal(explain({ ...without('', ''), count: 1 }, 'cuda', 0).reason, '');
  });

  const wrong: [options: object, argument: string][] = [
    [{ threads: 0 }, 'threads'],
    [{ threads: 1.5 }, 'threads'],
    [{ threads: 1025 }, 'threads'],
    [{ threads: '2' }, 'threads'],
    [{ memoryLimit: 0 }, 'memoryLimit'],
    [{ memoryLimit: Number.NaN }, 'memoryLimit'],
    [{ memoryLimit: -1 }, 'memoryLimit'],
    [{ isa: 7 }, 'isa'],
    [{ isa: 'avx9000' }, 'isa'],
    [{ isa: 'plain\nthreads=1' }, 'isa'],
    [{ index: -1 }, 'index'],
    [{ foreign: 1 }, 'foreign'],
    [{ foreign: true }, 'foreign'],
    [{ speed: 1 }, 'speed'],
  ];
  for (const [options, argument] of wrong) {
    it(`refuses ${JSON.stringify(options)}`, async () => {
      await assert.rejects(openDevice('cpu', options), moeError('INVALID_ARGUMENT', argument));
    });
  }

  it('refuses names that are none', async () => {
    await assert.rejects(openDevice('warp'), moeError('DEVICE_UNAVAILABLE', "device 'warp'"));
    await assert.rejects(openDevice('cpu:9'), moeError('DEVICE_UNAVAILABLE', "device 'cpu'"));
    await assert.rejects(openDevice('cpu:0', { index: 1 }), moeError('INVALID_ARGUMENT', 'index'));
    for (const name of ['', 'CPU', 'cpu:', 'cpu:x', '../cpu', 7, null]) {
      await assert.rejects(openDevice(name as string), moeError('INVALID_ARGUMENT', 'device'));
    }
  });

  for (const name of ['cpu', 'reference']) {
    it(`${name}: counts the memory that it holds`, async () => {
      const device = await openDevice(name);
      const before = device.memory().held;
      const tensor = Tensor.empty(device, 'f32', [1000, 256]);
      assert.equal(device.memory().held - before, 1024000);
      const weight = await Weight.from(device, { in: 256, out: 256, format: { format: 'int8' } }, normal(65536));
      assert.ok(weight.bytes >= 65536 && weight.bytes < 90000, `${weight.bytes}`);
      assert.ok(device.memory().held - before >= 1024000 + weight.bytes);
      weight.dispose();
      tensor.dispose();
      const { held, peak, limit } = device.memory();
      assert.equal(held, before);
      assert.ok(peak >= 1024000 + 65536);
      assert.equal(limit, 0);
      device.dispose();
    });

    it(`${name}: keeps to its memory limit and stays usable`, async () => {
      const device = await openDevice(name, { memoryLimit: 4e6 });
      assert.equal(device.memory().limit, 4e6);
      assert.throws(() => Tensor.empty(device, 'f32', [1000001]), moeError('OUT_OF_MEMORY', 'memoryLimit'));
      const spec = { in: 2048, out: 2048, format: { format: 'f32' } } as const;
      await assert.rejects(
        Weight.from(device, spec, new Float32Array(2048 * 2048)),
        moeError('OUT_OF_MEMORY', 'memoryLimit'),
      );
      const { program, dispose } = await linearProgram(device);
      assert.deepEqual((await program.run({ x: normal(64) })).y?.shape, [1, 64]);
      dispose();
      device.dispose();
    });

    it(`${name}: measures its limits or says 0`, async () => {
      const device = await openDevice(name);
      const limits = await device.limits();
      for (const value of Object.values(limits)) assert.ok(Number.isFinite(value) && value >= 0);
      if (name === 'cpu') assert.ok(limits.readBytesPerSecond > 1e8, `${limits.readBytesPerSecond}`);
      device.dispose();
    });
  }
});
