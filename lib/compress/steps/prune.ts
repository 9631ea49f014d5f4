import { MoeError } from '../../errors.ts';
import type { MoeSpec } from '../../moe/spec.ts';
import { selectRows } from '../group/router.ts';
import { keptExperts, pruneScores } from '../prune/criteria.ts';
import { DropSetLosses } from '../prune/enumerate.ts';
import type { PruneStep } from '../recipe/schema.ts';
import { refitDown } from '../recover/down.ts';
import { sampleOutputs } from '../statistics/outputs.ts';
import { eachOriginalLayer, type PlanContext, type Step } from './step.ts';

/** Removes experts and their router rows; the router then chooses among those that stay. */
export function pruningStep({ method, experts, gates }: PruneStep): Step {
  return {
    async plan(plan) {
      if (method === 'enumerate') return bestSubsets(plan, experts);
      const { statistics } = plan;
      return statistics.map((sums) => {
        const plain = { ...sums, gates: sums.plainGates, gatedNorms: sums.plainGatedNorms };
        return keptExperts(pruneScores(method, gates === 'plain' ? plain : sums), experts);
      });
    },
    async apply(layer, context, decision) {
      const kept = decision as readonly number[];
      const groupOf = new Int32Array(layer.slots.length).fill(-1);
      kept.forEach((expert, slot) => {
        groupOf[expert] = slot;
      });
      const router = selectRows(await context.router(), layer.slots.length, kept);
      const slots = kept.map((expert) => layer.slots[expert] as (typeof layer.slots)[number]);
      const pruned = { ...layer, slots, groupOf, router };
      return context.recover ? refitDown(pruned, context, { together: true }) : pruned;
    },
  };
}

/** Tokens on which every subset of the experts is weighed, as in the published comparison. */
const sampledTokens = 512;

/** For each layer the experts whose subset changes the layer's outputs least (NAEE). */
async function bestSubsets(plan: PlanContext, experts: number): Promise<number[][]> {
  const kept: number[][] = [];
  await eachOriginalLayer(plan, 'weigh subsets of experts', async ({ slots, hidden }, { spec, stream }) => {
    const losses = dropSetsOf(spec.router, experts);
    await losses.add(await sampleOutputs(stream, { experts: slots.length, hidden }, sampledTokens));
    const dropped = losses.best();
    kept.push([...slots.keys()].filter((expert) => !dropped.includes(expert)));
  });
  return kept;
}

function dropSetsOf({ experts, topK, renormalize, score }: MoeSpec['router'], stay: number): DropSetLosses {
  if (score !== 'softmax') {
    throw new MoeError('RECIPE_INVALID', { argument: 'method', expected: 'a softmax router', received: score });
  }
  return new DropSetLosses({ experts, dropped: experts - stay, topK, renormalize });
}
