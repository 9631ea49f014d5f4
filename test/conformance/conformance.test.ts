/** Every case of the table on every device that is here, against `reference`. */
import assert from 'node:assert/strict';
import { type Device, type DeviceOptions, devices, openDevice } from '../../lib/index.ts';
import { onlyDevice } from '../only-device.ts';
import { cases, type Operation } from './cases.ts';
import { assertNear } from './compare.ts';
import { type Case, Kit, type Result } from './kit.ts';

interface Target {
  readonly title: string;
  readonly name: string;
  readonly options: DeviceOptions;
}

/** Each device with each instruction set that it can be forced to. simt has a run of its own (`npm run test:simt`). */
function targets(): Target[] {
  if (onlyDevice) return [{ title: onlyDevice, name: onlyDevice, options: {} }];
  const found: Target[] = [{ title: 'reference, foreign', name: 'reference', options: { foreign: true } }];
  for (const { name, index, description } of devices()) {
    if (name === 'reference' || name === 'simt') continue;
    const sets = (description.availableIsas ?? []) as readonly string[];
    if (sets.length === 0) found.push({ title: `${name}:${index}`, name, options: { index } });
    for (const isa of sets) found.push({ title: `${name}, ${isa}`, name, options: { index, isa, threads: 2 } });
  }
  return found;
}

const expected = new Map<Case, Promise<Result[]>>();

async function results(device: Device, subject: Case, seed: number): Promise<Result[]> {
  const kit = new Kit(device, seed);
  try {
    await subject.build(kit);
  } catch (error) {
    kit.dispose();
    throw error;
  }
  return kit.run();
}

let reference: Device;
before(async () => {
  reference = await openDevice('reference');
});
after(() => {
  reference.dispose();
});

for (const target of targets()) {
  describe(target.title, () => {
    let device: Device;
    before(async () => {
      device = await openDevice(target.name, target.options);
    });
    after(() => {
      device.dispose();
    });

    if (target.options.isa) {
      it('runs the instruction set that was asked for', () => {
        assert.equal(device.description.isa, target.options.isa);
      });
    }

    for (const operation of Object.keys(cases) as Operation[]) {
      describe(operation, () => {
        for (const [index, subject] of cases[operation].entries()) {
          it(subject.title, async () => {
            const seed = index + 1;
            if (subject.refusedBy?.includes(target.name)) {
              await assert.rejects(results(device, subject, seed), { code: 'UNSUPPORTED' });
              return;
            }
            const known = expected.get(subject) ?? results(reference, subject, seed);
            expected.set(subject, known);
            const wanted = await known;
            const actual = await results(device, subject, seed);
            assert.equal(actual.length, wanted.length);
            for (const [i, { name, dtype, data }] of wanted.entries()) {
              const got = actual[i] as Result;
              assertNear(got.data, data, dtype, subject.bound, subject.k ?? 1, name);
            }
          });
        }
      });
    }
  });
}
