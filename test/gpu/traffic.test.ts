/**
 * What the kernels move, counted on the simt device and held against the plan that each launch declares: bytes, sectors of 32
 * bytes a warp's request, passes over shared-memory banks.
 */
import assert from 'node:assert/strict';
import { Kit, subjects } from '../../bench/kernels/subjects.ts';
import { traffic } from '../../bench/kernels/traffic.ts';
import { openDevice } from '../../lib/index.ts';
import { onlyDevice } from '../only-device.ts';

/** Kernels whose inner loops read staged operands: no bank may be asked twice in a pass. */
const staged = /^(decode|tiles)/;

/** Counted over planned bytes, and sectors over the fewest possible. */
const most = { bytes: 1.05, sectors: 1.1 };

(onlyDevice === 'simt' ? describe : describe.skip)('traffic of the kernels', () => {
  for (const { title, build } of subjects) {
    it(title, async () => {
      await using device = await openDevice('simt', { traffic: true });
      const kit = new Kit(device);
      await build(kit);
      await kit.run();
      for (const row of traffic(device)) {
        const { kernel, bytes, plannedBytes, sectors, idealSectors, sharedConflicts } = row;
        assert.ok(bytes <= most.bytes * plannedBytes, `${kernel}: ${bytes} bytes for ${plannedBytes} planned`);
        assert.ok(
          sectors <= most.sectors * idealSectors,
          `${kernel}: ${sectors} sectors where ${idealSectors} would do`,
        );
        if (staged.test(kernel)) assert.equal(sharedConflicts, 0, `${kernel}: conflicts of shared-memory banks`);
      }
    });
  }
});
