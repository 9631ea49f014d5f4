/** score and accumulate: what is read off a whole vocabulary, and what calibration adds up over runs. */
import type { Dtype, Statistic } from '../../../lib/index.ts';
import type { Case, Kit } from '../kit.ts';

interface Words {
  tokens: number;
  vocabulary: number;
  topK?: number;
  ids?: boolean;
  dtype?: Dtype;
  logits?: (k: Kit) => Float32Array;
}

function words(title: string, options: Words): Case {
  const { tokens, vocabulary, topK = 0, dtype = 'f32', logits } = options;
  return {
    title,
    bound: 'transcendental',
    build(k) {
      const values = logits?.(k) ?? k.normal(tokens * vocabulary, 3);
      const x = k.input('logits', dtype, ['tokens', vocabulary], values);
      const ids = options.ids ? k.input('ids', 'i32', ['tokens'], k.ints(tokens, -1, vocabulary)) : undefined;
      const result = k.g.score(x, { ids, topK });
      for (const [name, value] of Object.entries(result)) k.output(name, value);
    },
  };
}

export const score: readonly Case[] = [
  words('given ids, some −1', { tokens: 33, vocabulary: 511, ids: true }),
  words('top 5', { tokens: 7, vocabulary: 672, topK: 5 }),
  words('both, bf16 with ties', { tokens: 7, vocabulary: 704, topK: 3, ids: true, dtype: 'bf16' }),
  words('f16', { tokens: 7, vocabulary: 257, topK: 1, ids: true, dtype: 'f16' }),
  words('all equal', { tokens: 2, vocabulary: 60, topK: 60, logits: () => new Float32Array(120).fill(-4) }),
  words('a vocabulary of one', { tokens: 3, vocabulary: 1, topK: 1, ids: true }),
  words('a large vocabulary, far apart', {
    tokens: 2,
    vocabulary: 50257,
    topK: 8,
    ids: true,
    logits: (k) => k.normal(2 * 50257, 40),
  }),
  words('no tokens', { tokens: 0, vocabulary: 60, topK: 2, ids: true }),
  {
    title: 'NaN is the lowest',
    bound: 'transcendental',
    build(k) {
      const logits = k.normal(60);
      logits.fill(Number.NaN, 0, 50);
      k.output('topIds', k.g.score(k.input('logits', 'f32', ['tokens', 60], logits), { topK: 12 }).topIds as never);
    },
  },
];

interface Adds {
  statistic: Exclude<Statistic, 'count'>;
  power: 0 | 1 | 2;
  grouped: boolean;
  dtype?: Dtype;
  second?: boolean;
  tokens?: number;
}

/** Two runs into one state; grouped: rows of 5 slots, of which one stays empty. */
function adds(options: Adds): Case {
  const { statistic, power, grouped, dtype = 'f32', second = false, tokens = 37 } = options;
  const width = 60;
  const other = second ? 17 : width;
  const words = [
    statistic,
    dtype,
    grouped ? `grouped, gate^${power}` : 'all rows',
    second ? 'b apart' : '',
    tokens === 37 ? '' : `${tokens} tokens`,
  ];
  return {
    title: words.filter(Boolean).join(', '),
    bound: 'sum',
    k: 37,
    async build(k) {
      const slots = 5;
      const topK = 2;
      const tail = { sum: [width], norm_sum: grouped ? [] : [1], gram: [width, other] }[statistic];
      const state = await k.state('state', 'f64', grouped ? [slots, ...tail] : tail);
      const ids = grouped
        ? k.input('ids', 'i32', ['tokens', topK], k.ints(tokens * topK, -1, 4), k.ints(2 * topK, 0, 4))
        : undefined;
      const gates = grouped
        ? k.input('gates', 'f32', ['tokens', topK], k.normal(tokens * topK), k.normal(2 * topK))
        : undefined;
      const routing = ids && gates && k.g.route(undefined, { experts: slots, topK, ids, gates });
      const factor = grouped ? topK : 1;
      const rows = (name: string, columns: number) =>
        k.input(
          name,
          dtype,
          [{ factor, symbol: 'tokens' }, columns],
          k.normal(tokens * factor * columns),
          k.normal(2 * factor * columns),
        );
      k.g.accumulate(statistic, rows('a', width), state, {
        routing,
        gatePower: power,
        b: second ? rows('b', other) : undefined,
      });
    },
  };
}

export const accumulate: readonly Case[] = [
  {
    title: 'count, two runs, some −1 and out of range',
    bound: 'exact',
    async build(k) {
      const ids = k.input('ids', 'i32', ['tokens', 3], k.ints(60 * 3, -1, 80), k.ints(9, 0, 72));
      k.g.accumulate('count', ids, await k.state('state', 'f64', [72]));
    },
  },
  {
    title: 'count into a state that is not empty',
    bound: 'exact',
    async build(k) {
      const state = await k.state(
        'state',
        'f64',
        [257],
        undefined,
        Float32Array.from({ length: 257 }, (_, i) => i),
      );
      k.g.accumulate('count', k.input('ids', 'i32', ['tokens', 1], k.ints(72, 0, 257)), state);
    },
  },
  ...(['sum', 'norm_sum', 'gram'] as const).flatMap((statistic) => [
    adds({ statistic, power: 0, grouped: false }),
    adds({ statistic, power: 0, grouped: false, dtype: 'bf16' }),
    adds({ statistic, power: 0, grouped: true }),
    adds({ statistic, power: 1, grouped: true }),
    adds({ statistic, power: 2, grouped: true, dtype: 'f16' }),
    adds({ statistic, power: 0, grouped: false, tokens: 0 }),
    adds({ statistic, power: 1, grouped: true, tokens: 0 }),
  ]),
  adds({ statistic: 'gram', power: 0, grouped: false, second: true }),
  adds({ statistic: 'gram', power: 2, grouped: true, second: true }),
];
