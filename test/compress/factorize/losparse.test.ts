import assert from 'node:assert/strict';
import { type Factors, sumOf } from '../../../lib/compress/experts.ts';
import {
  keptRows,
  keptShare,
  LoSparsePruner,
  type PruningOptions,
  type PruningUnit,
} from '../../../lib/compress/factorize/losparse.ts';
import { lowRank, residual } from '../../../lib/compress/factorize/low-rank.ts';
import { closeTo, closeToLargest, type GoldenCase, goldenCase, slice } from '../golden-case.ts';
import { productsOf } from '../golden-layer.ts';

const f32 = (values: ArrayLike<number>): Float32Array => Float32Array.from(values);

/** A matrix, and the units of it that stay. */
interface Pruned {
  readonly values: Float32Array;
  readonly kept: Uint8Array;
}

/** Prunes the matrices of a case with its gradients, and compares thresholds and what is left. */
function prune(
  golden: GoldenCase,
  names: { rest: string; gradient: string; unit: PruningUnit; want: string }[],
  options: PruningOptions,
  thresholds: string,
): { matrices: Pruned[]; keeps: number[] } {
  const matrices = names.map(({ rest, unit }) => {
    const { shape, values } = golden.tensor(rest);
    return { rows: shape[0] as number, columns: shape[1] as number, values: f32(values), unit };
  });
  const pruner = new LoSparsePruner(matrices, options);
  const keeps: number[] = [];
  golden.tensor(thresholds).values.forEach((want, step) => {
    for (const [at, { gradient }] of names.entries()) {
      pruner.observe(at, matrices[at]?.values as Float32Array, f32(slice(golden.tensor(gradient), step)));
    }
    const { keep, threshold } = pruner.prune();
    keeps.push(keep);
    assert.ok(Math.abs(threshold - want) <= 1e-6 * want, `step ${step + 1}: ${threshold} for ${want}`);
  });
  const pruned = matrices.map(({ values, unit, columns }, at): Pruned => {
    const kept = pruner.kept(at);
    const unitOf = {
      row: (i: number) => Math.floor(i / columns),
      column: (i: number) => i % columns,
      entry: (i: number) => i,
    };
    return { values: values.map((value, i) => (kept[unitOf[unit](i)] ? value : 0)), kept };
  });
  for (const [at, { want }] of names.entries()) closeTo(pruned[at]?.values ?? [], golden.tensor(want).values, 0);
  return { matrices: pruned, keeps };
}

describe('LoSparse', () => {
  const schedule = { steps: 40, begin: 4, tail: 16, share: 0.25 };

  it('keeps the published shares', async () => {
    const golden = await goldenCase('mcsmoe-losparse');
    const want = golden.tensor('schedule').values;
    closeTo(
      want.map((_, step) => keptShare(step, schedule)),
      want,
      1e-12,
    );
  });

  it('decomposes and prunes as MC-SMoE does, and the remaining rows give the same outputs', async () => {
    const golden = await goldenCase('mcsmoe-losparse');
    const parts = [];
    for (const name of ['0', '1']) {
      const { shape, values } = golden.tensor(`W${name}`);
      const size = { rows: shape[0] as number, columns: shape[1] as number };
      const factors = await lowRank(f32(values), size, 6, {});
      parts.push(factors);
      closeToLargest(await residual(f32(values), factors, size), golden.tensor(`S${name}`).values, 2e-5);
    }
    const names = ['0', '1'].map((name) => ({
      rest: `S${name}`,
      gradient: `grad${name}`,
      unit: 'row' as const,
      want: `fsgpt_S${name}`,
    }));
    const { matrices, keeps } = prune(golden, names, { schedule }, 'fsgpt_threshold');
    closeTo(keeps, golden.tensor('fsgpt_keep').values, 1e-12);

    const [first, size] = [matrices[0] as Pruned, { rows: 48, columns: 40 }];
    const index = Int32Array.from(first.kept.keys()).filter((row) => first.kept[row]);
    const kept = keptRows(first.values, 40, index);
    assert.deepEqual([...kept.index], [...golden.tensor('kept').values]);
    const deployed = sumOf({ ...size, factors: parts[0] as Factors, kept });
    const y = productsOf(golden.tensor('x').values, deployed, 40);
    closeToLargest(y, golden.tensor('y_deployed').values, 2e-5);
    closeToLargest(y, golden.tensor('y').values, 2e-5);
  });

  it('weighs importance by its variation', async () => {
    const names = ['0', '1'].map((name) => ({
      rest: `S${name}`,
      gradient: `grad${name}`,
      unit: 'row' as const,
      want: `uncertain_S${name}`,
    }));
    prune(await goldenCase('mcsmoe-losparse'), names, { schedule, uncertainty: 0.9 }, 'uncertain_threshold');
  });

  for (const [name, units, options] of [
    ['row_mean', ['row', 'row'], {}],
    ['col_sum', ['column', 'column'], { reduce: 'sum' }],
    ['rowcol_mean', ['row', 'column'], {}],
    ['magnitude', ['row', 'row'], { smoothing: 'magnitude' }],
    ['unstructured', ['entry', 'entry'], {}],
  ] as const) {
    it(`prunes as LoSparse itself does: ${name}`, async () => {
      const golden = await goldenCase('losparse-original');
      const names = ['query', 'dense'].map((matrix, at) => ({
        rest: `S_${matrix}`,
        gradient: `grad_${matrix}`,
        unit: units[at] as PruningUnit,
        want: `${name}_${matrix}`,
      }));
      const rhythm = { steps: 24, begin: 3, tail: 6, share: 0.2, every: 2 };
      const { keeps } = prune(golden, names, { uncertainty: 0.95, ...options, schedule: rhythm }, `${name}_threshold`);
      closeTo(keeps, golden.tensor('row_mean_keep').values, 1e-12);
    });
  }
});
