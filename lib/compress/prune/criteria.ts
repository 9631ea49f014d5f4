import { MoeError } from '../../errors.ts';

/** What an expert is worth; see {@link pruneScores}. */
export type PruneCriterion = 'frequency' | 'seer' | 'ean' | 'weighted-ean' | 'reap' | 'man' | 'msan';

/** Sums over the tokens of each expert, f64 [experts] each; g its gate, f its output without the gate. */
export interface ExpertSums {
  /** Tokens. */
  readonly counts: Float64Array;
  /** Σ g. */
  readonly gates: Float64Array;
  /** Σ ‖f‖₂. */
  readonly norms: Float64Array;
  /** Σ g·‖f‖₂. */
  readonly gatedNorms: Float64Array;
  /** Σ ‖f‖₂². */
  readonly squares: Float64Array;
}

/**
 * The worth of each expert of a layer, f64 [experts]; an expert without tokens is worth 0.
 *
 * - `frequency`: how often it was chosen;
 * - `seer`: Σ g (SEER-MoE, "soft counting");
 * - `ean`: Σ ‖f‖ (EAN, "expert activation norm");
 * - `weighted-ean`: Σ g·‖f‖;
 * - `reap`: mean of g·‖f‖ (REAP, arXiv 2510.13999, section 4); rare experts with large outputs stay;
 * - `man`, `msan`: mean of ‖f‖ and of ‖f‖² (mean, and mean squared, activation norm).
 *
 * Whether g are the router's plain scores or those renormalized over the chosen experts is the statistics' matter.
 */
export function pruneScores(criterion: PruneCriterion, sums: ExpertSums): Float64Array {
  const { counts, gates, norms, gatedNorms, squares } = sums;
  const mean = (values: Float64Array): Float64Array =>
    values.map((sum, expert) => ((counts[expert] as number) > 0 ? sum / (counts[expert] as number) : 0));
  switch (criterion) {
    case 'frequency':
      return Float64Array.from(counts);
    case 'seer':
      return Float64Array.from(gates);
    case 'ean':
      return Float64Array.from(norms);
    case 'weighted-ean':
      return Float64Array.from(gatedNorms);
    case 'reap':
      return mean(gatedNorms);
    case 'man':
      return mean(norms);
    case 'msan':
      return mean(squares);
  }
}

/**
 * The experts that stay, ascending: those with the highest scores; the lower index where two are worth the same. Router
 * rows follow in this order (`selectRows`).
 *
 * @throws MoeError RECIPE_INVALID for a count that is not 1 … experts
 */
export function keptExperts(scores: Float64Array, keep: number): number[] {
  if (!(Number.isInteger(keep) && keep >= 1 && keep <= scores.length)) {
    throw new MoeError('RECIPE_INVALID', {
      argument: 'experts',
      expected: `1 … ${scores.length} experts that stay`,
      received: String(keep),
    });
  }
  const best = [...scores.keys()].sort((a, b) => (scores[b] as number) - (scores[a] as number) || a - b);
  return best.slice(0, keep).sort((a, b) => a - b);
}
