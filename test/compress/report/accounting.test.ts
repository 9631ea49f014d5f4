/** The counts that were published for switch-base-32 and its compressed forms. */
import { strict as assert } from 'node:assert';
import {
  type CountedMatrix,
  layerOperations,
  matrixParameters,
  modelParameters,
} from '../../../lib/compress/report/accounting.ts';
import { moeError } from '../../checkpoint/support.ts';

const [hidden, width, experts, sparseLayers] = [768, 3072, 32, 12];
const dense = (form: Partial<CountedMatrix> = {}): CountedMatrix[] => [
  { rows: width, columns: hidden, ...form },
  { rows: hidden, columns: width, ...form },
];

/** Full; merged to 8 on average, one layer untouched; that with the merged ones factorized: rank 32 beside a tenth of the values. */
const forms = (others: number): number[] => [
  modelParameters(others, [{ count: sparseLayers * experts, matrices: dense() }]),
  modelParameters(others, [{ count: 11 * 8 + experts, matrices: dense() }]),
  modelParameters(others, [
    { count: experts, matrices: dense() },
    { count: 11 * 8, matrices: dense({ rank: 32, kept: 0.1 }) },
  ]),
];

describe('accounting', () => {
  it('counts an expert of switch-base', () => {
    assert.equal(matrixParameters({ rows: width, columns: hidden }) * 2, 4_718_592);
    assert.equal(matrixParameters({ rows: width, columns: hidden, rank: 32, kept: 0 }), 32 * 3840);
  });

  it('gives 1.98 B, 732 M and 380 M for 166 M parameters outside of the experts', () => {
    const [full = 0, merged = 0, factorized = 0] = forms(166e6);
    assert.equal((full / 1e9).toFixed(2), '1.98');
    assert.deepEqual([Math.round(merged / 1e6), Math.round(factorized / 1e6)], [732, 380]);
  });

  it('gives the published 2.0 B, 733 M and 381 M for all that the architecture has outside of the experts', () => {
    const attention = (sparseLayers + 2 * sparseLayers) * 4 * hidden * hidden;
    const denseBlocks = sparseLayers * 2 * hidden * width;
    const routers = sparseLayers * hidden * experts;
    const norms = (2 * sparseLayers + 1 + (3 * sparseLayers + 1)) * hidden;
    const positions = 2 * 32 * 12;
    const [full = 0, merged = 0, factorized = 0] = forms(
      32_128 * hidden + attention + denseBlocks + routers + norms + positions,
    );
    assert.equal((full / 1e9).toFixed(1), '2.0');
    assert.deepEqual([Math.round(merged / 1e6), Math.round(factorized / 1e6)], [733, 381]);
  });

  it('counts operations a token: those of the chosen experts and of the router', () => {
    const layer = { hidden, experts, topK: 1, matrices: dense() };
    assert.equal(layerOperations(layer, 1), 2 * (4_718_592 + hidden * experts));
    assert.equal(layerOperations({ ...layer, topK: 2 }, 10), 20 * (2 * 4_718_592 + hidden * experts));
    const factors = dense({ rank: 32, kept: 0.125 });
    assert.equal(layerOperations({ ...layer, matrices: factors }, 1), 2 * (2 * 32 * 3840 + 589_824 + hidden * experts));
  });

  it('refuses what is no count', () => {
    const refuse = (body: () => unknown, words: RegExp) => assert.throws(body, moeError('INVALID_ARGUMENT', words));
    refuse(() => matrixParameters({ rows: 0, columns: 1 }), /matrix\.rows/);
    refuse(() => matrixParameters({ rows: 1, columns: 1.5 }), /matrix\.columns/);
    refuse(() => matrixParameters({ rows: 1, columns: 1, rank: -1 }), /matrix\.rank/);
    refuse(() => matrixParameters({ rows: 1, columns: 1, kept: Number.NaN }), /matrix\.kept/);
    refuse(() => modelParameters(-1, []), /others/);
    refuse(() => modelParameters(0, [{ count: 0.5, matrices: [] }]), /experts\[0\]\.count/);
    refuse(() => layerOperations({ hidden, experts, topK: 1, matrices: [] }, -1), /tokens/);
  });
});
