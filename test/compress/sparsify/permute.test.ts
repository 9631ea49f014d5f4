import assert from 'node:assert/strict';
import { type ExpertMatrices, transpose } from '../../../lib/compress/expert.ts';
import { magnitudeMask, wandaMask } from '../../../lib/compress/sparsify/masks.ts';
import { permuteForSparsity } from '../../../lib/compress/sparsify/permute.ts';
import { closeToLargest } from '../golden-case.ts';
import { expertRows } from '../golden-layer.ts';

const [hidden, width] = [24, 32];
const pattern = { n: 2, m: 4 };

let state = 7;
/** Numbers from −1 to 1, most of them small. */
const random = (): number => {
  state = (state * 48271) % 2147483647;
  return ((2 * state) / 2147483647 - 1) ** 3;
};
const matrix = (): Float32Array => Float32Array.from({ length: hidden * width }, random);
const expert: ExpertMatrices = { hidden, width, gate: matrix(), up: matrix(), down: matrix() };

const rowsOf = ({ gate, up, down }: ExpertMatrices): Float64Array => {
  const x = Float64Array.from({ length: 8 * hidden }, (_, at) => Math.sin(at));
  const f64 = (values: Float32Array | undefined): Float64Array => Float64Array.from(values ?? []);
  return expertRows({ gate: f64(gate), up: f64(up), down: f64(down) }, x, hidden);
};

const kept = (weight: Float32Array, mask: Uint8Array, norms?: Float64Array): number =>
  weight.reduce((sum, value, at) => sum + (mask[at] as number) * Math.abs(value) * (norms?.[at % width] ?? 1), 0);

describe('an order of neurons for n:m', () => {
  it('lets down keep more, while the expert gives the same', async () => {
    const ordered = await permuteForSparsity(expert, pattern);
    const [before, after] = [expert, ordered].map(({ down }) =>
      kept(down, magnitudeMask(down, hidden, width, pattern)),
    );
    assert.ok((after as number) > 1.02 * (before as number), `${after} after ${before}`);
    closeToLargest(rowsOf(ordered), rowsOf(expert), 1e-6);
    assert.notDeepEqual(ordered.up, expert.up);
  });

  it('counts columns by the norms of their neurons', async () => {
    const norms = Float64Array.from({ length: width }, (_, at) => (at < width / 2 ? 8 : 1));
    const ordered = await permuteForSparsity(expert, pattern, norms);
    // Where each neuron went, by its down column.
    const columns = transpose(expert.down, hidden, width);
    const moved = transpose(ordered.down, hidden, width);
    const from = Array.from({ length: width }, (_, to) =>
      Array.from({ length: width }, (__, at) => at).findIndex((at) => moved[to * hidden] === columns[at * hidden]),
    );
    const score = (down: Float32Array, own: Float64Array): number =>
      kept(
        down,
        wandaMask(
          down,
          own.map((norm) => norm * norm),
          hidden,
          width,
          pattern,
        ),
        own,
      );
    const after = score(
      ordered.down,
      Float64Array.from(from, (at) => norms[at] as number),
    );
    assert.ok(after > 1.02 * score(expert.down, norms));
    assert.equal(new Set(from).size, width);
  });

  it('stays where runs do not fit', async () => {
    assert.equal(await permuteForSparsity(expert, { n: 2, m: 5 }), expert);
    assert.equal(await permuteForSparsity(expert, { n: 2, m: 128 }), expert);
  });
});
