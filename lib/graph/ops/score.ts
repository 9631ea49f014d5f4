import { requireObject } from '../../arguments.ts';
import type { Assembly } from '../assembly.ts';
import type { Value } from '../value.ts';

export interface ScoreOptions {
  /** i32 [T], the ids whose log-probability is wanted; −1: 0 is written. */
  ids?: Value | undefined;
  /** How many of the most likely. Default 0. */
  topK?: number | undefined;
}

interface Scores {
  /** f32 [T], nats; with ids. */
  readonly logProbability: Value;
  /** i32 [T, topK], most likely first, ties to the lower; with topK > 0. */
  readonly topIds: Value;
  /** f32 [T, topK]. */
  readonly topLogProbabilities: Value;
}

/** What the options ask for is there. */
export type Score<O extends ScoreOptions = ScoreOptions> = Partial<Scores> &
  (O extends { ids: Value } ? Pick<Scores, 'logProbability'> : unknown) &
  (O extends { topK: number } ? Omit<Scores, 'logProbability'> : unknown);

/** What is wanted of a whole vocabulary without reading it; logits float [T, V]. */
export function score<O extends ScoreOptions>(g: Assembly, logits: Value, options?: O): Score<O> {
  const { ids, topK = 0 } = requireObject<ScoreOptions>(options === undefined ? {} : options);
  const [logProbability, topIds, topLogProbabilities] = g.node('score', { logits, ids }, { topK });
  return {
    ...(logProbability && { logProbability }),
    ...(topIds && { topIds }),
    ...(topLogProbabilities && { topLogProbabilities }),
  } as Score<O>;
}
