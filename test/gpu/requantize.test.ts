/**
 * A linear that hands its result on as codes gives what it would give through floats, to the bit. Exposing the floats keeps them
 * apart.
 */
import assert from 'node:assert/strict';
import { type Device, openDevice } from '../../lib/index.ts';
import { buildChain, type Chain, handedOn, keptApart } from '../conformance/cases/chains.ts';
import { Kit, type Result } from '../conformance/kit.ts';
import { onlyDevice } from '../only-device.ts';

const name = onlyDevice ?? 'simt';

/** How often a run of its own prepared rows since the device was opened. */
const preparations = (device: Device): number =>
  JSON.parse(device.native.describe()).planned.prepare_rows?.launches ?? 0;

async function results(device: Device, chain: Chain, exposed: boolean): Promise<{ y: Result; prepared: number }> {
  const before = preparations(device);
  const kit = new Kit(device, 1);
  await buildChain(kit, chain, { exposed, spikes: false });
  const y = (await kit.run()).find((result) => result.name === 'y, run 0');
  assert.ok(y);
  return { y, prepared: preparations(device) - before };
}

describe(`rows handed on as codes on ${name}`, () => {
  for (const batchInvariant of [false, true]) {
    // A batch-invariant device computes many rows by the kernel for few.
    const leastRows = batchInvariant ? 40 : 0;
    describe(batchInvariant ? 'batch invariant' : 'by default', () => {
      let device: Device;
      before(async () => {
        device = await openDevice(name, { traffic: true, batchInvariant });
      });
      after(() => device.dispose());
      for (const chain of handedOn.filter(({ tokens }) => tokens >= leastRows)) {
        it(chain.title, async () => {
          const through = await results(device, chain, true);
          const handed = await results(device, chain, false);
          assert.deepEqual(handed.y.data, through.y.data);
          assert.equal(handed.prepared, through.prepared - 1);
        });
      }
      for (const chain of keptApart.filter(({ tokens }) => tokens >= leastRows)) {
        it(`not where: ${chain.title}`, async () => {
          const through = await results(device, chain, true);
          assert.equal((await results(device, chain, false)).prepared, through.prepared);
        });
      }
    });
  }
});
