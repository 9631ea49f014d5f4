import { selectRows } from '../group/router.ts';
import { keptExperts, pruneScores } from '../prune/criteria.ts';
import type { PruneStep } from '../recipe/schema.ts';
import { refitDown } from '../recover/down.ts';
import type { Step } from './step.ts';

/** Removes experts and their router rows; the router then chooses among those that stay. */
export function pruningStep({ method, experts, gates }: PruneStep): Step {
  return {
    async plan({ statistics }) {
      if (method === 'enumerate') return [];
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
