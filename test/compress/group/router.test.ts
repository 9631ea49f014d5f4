import assert from 'node:assert/strict';
import { dominantMembers } from '../../../lib/compress/group/labels.ts';
import { dropMask, meanRows, selectRows } from '../../../lib/compress/group/router.ts';

describe('the router after a merge', () => {
  const rows = Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
  const labels = [0, 1, 0, 1];
  const frequency = Float64Array.of(0.1, 0, 0.3, 0);

  it('keeps the rows of the dominant members in the order of the slots', () => {
    const dominant = dominantMembers(labels, frequency);
    assert.deepEqual(dominant, [2, 1]);
    assert.deepEqual(selectRows(rows, 4, dominant), Float32Array.of(5, 6, 3, 4));
    assert.deepEqual(selectRows(Float32Array.of(9, 8, 7, 6), 4, dominant), Float32Array.of(7, 8));
  });

  it('takes means by usage, plain ones where nobody was used', () => {
    assert.deepEqual(meanRows(rows, labels, frequency), Float32Array.of(4, 5, 5, 6));
  });

  it('never chooses a dropped expert', () => {
    const never = Number.NEGATIVE_INFINITY;
    assert.deepEqual(dropMask(4, [1, 3]), Float32Array.of(never, 0, never, 0));
  });

  it('refuses rows and experts that are not there', () => {
    assert.throws(() => selectRows(rows, 3, [0]), { code: 'INVALID_ARGUMENT', argument: 'rows' });
    for (const expert of [-1, 4, 0.5]) {
      assert.throws(() => selectRows(rows, 4, [0, expert]), { code: 'INVALID_ARGUMENT', argument: 'experts[1]' });
    }
  });
});
