import assert from 'node:assert/strict';
import { divideRows, type Round, scaleColumns, searchScales } from '../../../lib/compress/quantize/awq.ts';
import { formatsCase } from '../../golden/formats-case.ts';
import { closeTo } from '../golden-case.ts';
import { columnMeans, productsOf, transposed } from '../golden-layer.ts';

const group = 32;

/** Groups of a row as AutoAWQ rounds them: a whole zero point, and no care for 0. */
const published: Round = async (weight) => {
  const result = weight.slice();
  for (let begin = 0; begin < weight.length; begin += group) {
    const values = weight.subarray(begin, begin + group);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const scale = Math.fround(Math.max(high - low, 1e-5) / 15);
    const zero = Math.min(15, Math.max(0, -Math.round(low / scale)));
    values.forEach((value, at) => {
      const code = Math.min(15, Math.max(0, Math.round(value / scale) + zero));
      result[begin + at] = (code - zero) * scale;
    });
  }
  return result;
};

describe('scales of inputs', () => {
  const golden = formatsCase('solver-awq-scale-search');
  const x = Float64Array.from(golden.floats('x'));
  const [tokens = 0, columns = 0] = golden.shape('x');
  const matrices = ['weight.0', 'weight.1'].map((name) => ({
    weight: golden.floats(name),
    rows: golden.shape(name)[0] as number,
  }));
  const input = {
    magnitude: columnMeans(x.map(Math.abs), columns),
    moment: productsOf(transposed(x, columns), transposed(x, columns), tokens),
  };

  /** Mean of |w| over the largest of its group, of the columns of all matrices. */
  function weightMagnitude(): Float64Array {
    const all = Float64Array.from(matrices.flatMap(({ weight }) => [...weight]));
    const relative = all.map((value, at) => {
      const begin = at - (at % group);
      const largest = all.subarray(begin, begin + group).reduce((most, w) => Math.max(most, Math.abs(w)), 0);
      return Math.abs(value) / (largest + 1e-6);
    });
    return columnMeans(relative, columns);
  }

  for (const [name, weighted] of [
    ['plain', false],
    ['duo', true],
  ] as const) {
    it(`are those that AutoAWQ finds: ${name}`, async () => {
      const options = { round: published, weightMagnitude: weighted ? weightMagnitude() : undefined };
      const { scales, losses } = await searchScales(matrices, input, options);
      const want = golden.floats(`${name}.scales`);
      closeTo(
        scales.map((scale, at) => scale / (want[at] as number)),
        new Float64Array(columns).fill(1),
        1e-4,
      );
      const outputs = tokens * matrices.reduce((sum, { rows }) => sum + rows, 0);
      const wanted = golden.floats(`${name}.losses`);
      losses.forEach((loss, step) => {
        assert.ok(Math.abs(loss / outputs / (wanted[step] as number) - 1) < 0.02, `${step}: ${loss / outputs}`);
      });
    });
  }

  it('leave what an expert gives as it is', () => {
    const scales = Float32Array.of(0.5, 2);
    assert.deepEqual([...scaleColumns(Float32Array.of(1, 2, 3, 4), scales)], [0.5, 4, 1.5, 8]);
    assert.deepEqual([...divideRows(Float32Array.of(1, 2, 3, 4), scales)], [2, 4, 1.5, 2]);
  });
});
