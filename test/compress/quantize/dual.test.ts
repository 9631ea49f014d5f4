import assert from 'node:assert/strict';
import type { StoredIntegers } from '../../../lib/checkpoint/stored-matrix.ts';
import { dualCodes } from '../../../lib/compress/quantize/dual.ts';
import { decoded, rounded, rowErrors } from '../../../lib/compress/quantize/rounding.ts';
import { f16ToF32 } from '../../../lib/tensor/half.ts';
import { formatsCase } from '../../golden/formats-case.ts';
import { closeTo } from '../golden-case.ts';
import { productsOf, transposed } from '../golden-layer.ts';

describe('dual-grained codes', () => {
  const golden = formatsCase('dgq-64x512');
  const weight = golden.floats('weight');
  const [rows = 0, columns = 0] = golden.shape('weight');
  const x = Float64Array.from(golden.floats('x'));
  const moment = productsOf(transposed(x, columns), transposed(x, columns), x.length / columns);
  const form: StoredIntegers = { format: 'int4', groupSize: 128, offset: false, scale: 'f16', dual: true };

  /** Squared error of all outputs. */
  async function errorOf(given: Float32Array): Promise<number> {
    const error = given.map((value, at) => value - (weight[at] as number));
    return (await rowErrors(error, moment, rows, columns)).reduce((sum, square) => sum + square, 0);
  }

  it('are whole numbers of 8 bits under one scale a row, as a reader finds them', async () => {
    const codes = await dualCodes(weight, moment, rows, columns, form);
    const floats = await decoded(codes, rows, columns);
    const scale = new Int8Array(codes.scale.buffer);
    const outer = f16ToF32(new Uint16Array((codes.outer as Uint8Array).buffer));
    const expected = Float32Array.from(weight, (_, at) => {
      const [row, column] = [Math.floor(at / columns), at % columns];
      const nibble = ((codes.values[(row * columns + column) >> 1] as number) >> (4 * (column & 1))) & 15;
      const whole =
        (scale[row * (columns / 128) + Math.floor(column / 128)] as number) * (nibble - (nibble > 7 ? 16 : 0));
      assert.ok(Math.abs(whole) <= 127, `${whole}`);
      return whole * (outer[row] as number);
    });
    assert.deepEqual(floats, expected);
    assert.ok(scale.every((value) => value >= 1));
  });

  it('miss little more than DGQ, which has zero points, and far less than the nearest ones', async () => {
    const own = await errorOf(await decoded(await dualCodes(weight, moment, rows, columns, form), rows, columns));
    assert.ok(own < 1.15 * (await errorOf(golden.floats('dequantized'))), `${own}`);
    assert.ok(own < 0.5 * (await errorOf(await rounded(weight, rows, columns, form))), `${own}`);
  });

  it('of zeros are zeros', async () => {
    const none = new Float32Array(2 * 256);
    const codes = await dualCodes(none, new Float64Array(256 * 256), 2, 256, form);
    closeTo(await decoded(codes, 2, 256), none, 0);
  });
});
