import assert from 'node:assert/strict';
import { Adam } from '../../../lib/compress/reconstruct/adam.ts';

describe('Adam', () => {
  it('goes to the least of a badly scaled quadratic, and leaves alone what has no gradient', () => {
    const aim = [3, -2, 0.5];
    const curvature = [1, 100, 1e-4];
    const [values, still] = [Float32Array.of(1, 1, 1), Float32Array.of(1, 2)];
    const adam = new Adam([values, still]);
    for (let step = 0; step < 2000; step++) {
      const gradient = values.map((value, at) => (curvature[at] as number) * (value - (aim[at] as number)));
      adam.step([gradient, new Float32Array(2)], 0.02 * (1 - step / 2000));
    }
    values.forEach((value, at) => {
      assert.ok(Math.abs(value - (aim[at] as number)) < 1e-2, `${at}: ${value}`);
    });
    assert.deepEqual([...still], [1, 2]);
  });

  it('moves by its rate, as a share of the root mean square, at first', () => {
    const values = Float32Array.of(3, 4);
    new Adam([values]).step([Float32Array.of(1e-3, -50)], 0.1);
    const step = 0.1 * Math.sqrt(12.5);
    assert.ok(Math.abs((values[0] as number) - 3 + step) < 1e-5 && Math.abs((values[1] as number) - 4 - step) < 1e-5);
  });
});
