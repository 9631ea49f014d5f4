/** route by scores. */
import type { Dtype, RouteOptions, Routing } from '../../../lib/index.ts';
import type { BoundName } from '../compare.ts';
import { type Case, type Kit, rowsBelow } from '../kit.ts';

const nan = Number.NaN;
const infinity = Number.POSITIVE_INFINITY;

export function outputs(k: Kit, routing: Routing): void {
  k.output('ids', routing.ids);
  k.output('gates', routing.gates);
  k.output('rowOf', routing.rowOf);
  k.output('tokenOf', routing.tokenOf, rowsBelow('offsets'));
  k.output('gateOf', routing.gateOf, rowsBelow('offsets'));
  k.output('offsets', routing.offsets);
}

interface Choose extends RouteOptions {
  /** Of the first run, or of each. */
  tokens: number | readonly number[];
  bound?: BoundName;
  dtype?: Dtype;
  logits?: (k: Kit, tokens: number) => Float32Array;
  biased?: boolean | 'zero';
}

function choose(title: string, options: Choose): Case {
  const { tokens, bound = 'transcendental', dtype = 'f32', logits, biased, ...attributes } = options;
  const { experts } = options;
  return {
    title,
    bound,
    async build(k) {
      const runs = [tokens].flat().map((count) => logits?.(k, count) ?? k.normal(count * experts, 2));
      const deviation = biased === 'zero' ? 0 : 0.2;
      const bias = biased ? await k.tensor('f32', [experts], k.normal(experts, deviation)) : undefined;
      outputs(k, k.g.route(k.input('logits', dtype, ['tokens', experts], ...runs), { ...attributes, bias }));
    },
  };
}

export const merged = (experts: number, slots: number): Int32Array =>
  Int32Array.from({ length: experts }, (_, e) => (e * 7) % slots);
/** [tokens, experts] of eight values, every fifth row all below zero. */
const tied = (tokens: number, experts: number) => (k: Kit) =>
  Float32Array.from(k.ints(tokens * experts, -4, 4), (value, i) =>
    Math.floor(i / experts) % 5 === 4 ? -1 - Math.abs(value) : value,
  );

/** [tokens, experts], so close that many scores are equal though their logits are not. */
const close = (experts: number) => (k: Kit, tokens: number) =>
  Float32Array.from(k.ints(tokens * experts, 0, 40), (value) => 0.75 + value * 2 ** -24);
/** [tokens, experts], of which expert 5 is always the best. */
const hot = (experts: number) => (k: Kit, tokens: number) =>
  k.normal(tokens * experts).map((value, i) => (i % experts === 5 ? 20 + value : value));

/** Rows of special logits, [8, 60]. */
function badLogits(k: Kit): Float32Array {
  const logits = k.normal(8 * 60);
  const row = (index: number): Float32Array => logits.subarray(index * 60, (index + 1) * 60);
  row(0).fill(nan);
  row(1).fill(infinity);
  row(2).fill(-infinity);
  row(3)[59] = infinity;
  row(4)[3] = nan;
  row(5).set([infinity, -infinity, nan, infinity]);
  row(6).fill(0);
  row(7).fill(3e38, 10, 20);
  return logits;
}

export const route: readonly Case[] = [
  choose('softmax, 60 experts, top 4', { experts: 60, topK: 4, tokens: 33 }),
  choose('softmax, 257 experts, top 8, renormalized and scaled', {
    experts: 257,
    topK: 8,
    tokens: 17,
    renormalize: true,
    scale: 2.5,
  }),
  choose('softmax, bf16 logits with ties', { experts: 72, topK: 6, tokens: 40, dtype: 'bf16' }),
  choose('softmax, f16 logits', { experts: 72, topK: 6, tokens: 40, dtype: 'f16' }),
  choose('sigmoid with a bias, renormalized', {
    experts: 257,
    topK: 8,
    tokens: 9,
    score: 'sigmoid',
    biased: true,
    renormalize: true,
  }),
  choose('identity', { experts: 60, topK: 2, tokens: 9, score: 'identity' }),
  choose('softmax with a bias', { experts: 60, topK: 2, tokens: 40, biased: true }),
  choose('all experts', { experts: 7, topK: 7, tokens: 5 }),
  choose('one expert', { experts: 1, topK: 1, tokens: 5, renormalize: true }),
  choose('all logits equal', { experts: 72, topK: 4, tokens: 3, logits: () => new Float32Array(3 * 72).fill(0.5) }),
  choose('limited to 3 of 8 runs, with a bias', {
    experts: 72,
    topK: 6,
    tokens: 21,
    score: 'sigmoid',
    biased: true,
    expertGroups: 8,
    keptGroups: 3,
  }),
  choose('limited to 2 of 6 runs, without a bias', {
    experts: 60,
    topK: 5,
    tokens: 21,
    expertGroups: 6,
    keptGroups: 2,
  }),
  choose('no tokens', { experts: 60, topK: 4, tokens: 0 }),
  choose('merged, coalesced', { experts: 60, topK: 8, tokens: 19, groupOf: merged(60, 9) }),
  choose('merged, rows apart', { experts: 60, topK: 8, tokens: 19, groupOf: merged(60, 9), coalesce: false }),
  choose('merged into one', { experts: 16, topK: 4, tokens: 19, groupOf: new Int32Array(16), renormalize: true }),
  choose('merged, slots that no expert has', { experts: 16, topK: 4, tokens: 19, groupOf: merged(16, 3), slots: 11 }),
  choose('ReLU and norm, top 8 of 257', { experts: 257, topK: 8, tokens: 17, score: 'relu_norm', scale: 1.5 }),
  choose('what is above zero', { experts: 60, topK: 60, tokens: 17, score: 'relu_norm', choice: 'non_zero' }),
  choose('what is above zero, a large epsilon, renormalized', {
    experts: 72,
    topK: 40,
    tokens: 9,
    score: 'relu_norm',
    epsilon: 10,
    choice: 'non_zero',
    renormalize: true,
  }),
  choose('what is above zero, ties, tokens without a choice, more than fit', {
    experts: 257,
    topK: 9,
    tokens: 21,
    score: 'relu',
    choice: 'non_zero',
    logits: tied(21, 257),
    bound: 'exact',
  }),
  choose('what is above zero, with a bias', {
    experts: 72,
    topK: 12,
    tokens: 21,
    score: 'relu',
    choice: 'non_zero',
    biased: true,
    bound: 'exact',
  }),
  choose('what is above zero, bf16 logits, merged, coalesced, a capacity', {
    experts: 72,
    topK: 72,
    tokens: 21,
    dtype: 'bf16',
    score: 'relu_norm',
    choice: 'non_zero',
    groupOf: merged(72, 5),
    capacity: 4,
  }),
  choose('what is above zero, no tokens', { experts: 60, topK: 60, tokens: 0, score: 'relu', choice: 'non_zero' }),
  choose('capacity 1, top 1', { experts: 60, topK: 1, tokens: 200, capacity: 1 }),
  choose('capacity 5, renormalized', { experts: 512, topK: 16, tokens: 200, capacity: 5, renormalize: true }),
  choose('a capacity of experts, not slots, coalesced', {
    experts: 60,
    topK: 8,
    tokens: 64,
    groupOf: merged(60, 9),
    capacity: 3,
  }),
  choose('a capacity, limited runs', {
    experts: 72,
    topK: 6,
    tokens: 64,
    expertGroups: 8,
    keptGroups: 3,
    capacity: 2,
    logits: tied(64, 72),
  }),
  choose('a capacity, no tokens', { experts: 60, topK: 4, tokens: 0, capacity: 2 }),
  choose('experts choose, 60 of them', { experts: 60, topK: 8, tokens: 33, choice: 'expert', capacity: 4 }),
  choose('experts choose one token each, 257 of them', {
    experts: 257,
    topK: 257,
    tokens: 40,
    choice: 'expert',
    capacity: 1,
    renormalize: true,
  }),
  choose('experts choose, ties, more than fit', {
    experts: 72,
    topK: 6,
    tokens: 65,
    score: 'identity',
    choice: 'expert',
    capacity: 13,
    logits: tied(65, 72),
    bound: 'exact',
  }),
  choose('experts choose, top 16 of 512', { experts: 512, topK: 16, tokens: 130, choice: 'expert', capacity: 2 }),
  choose('experts choose, fewer tokens than their capacity', {
    experts: 60,
    topK: 7,
    tokens: 3,
    score: 'sigmoid',
    choice: 'expert',
    capacity: 100,
  }),
  choose('experts choose, one token', { experts: 60, topK: 60, tokens: 1, choice: 'expert', capacity: 1 }),
  choose('experts choose, no tokens', { experts: 60, topK: 4, tokens: 0, choice: 'expert', capacity: 2 }),
  choose('experts choose, f16 logits, merged, coalesced', {
    experts: 60,
    topK: 8,
    tokens: 33,
    dtype: 'f16',
    choice: 'expert',
    capacity: 5,
    groupOf: merged(60, 9),
  }),
  choose('experts choose, merged, rows apart', {
    experts: 60,
    topK: 8,
    tokens: 33,
    choice: 'expert',
    capacity: 5,
    groupOf: merged(60, 9),
    coalesce: false,
  }),
  ...(['softmax', 'sigmoid', 'identity', 'relu_norm', 'relu'] as const).flatMap((score) => [
    choose(`${score}, NaN and infinite logits, what is above zero, capacity 2`, {
      experts: 60,
      topK: 60,
      tokens: 8,
      score,
      choice: 'non_zero',
      capacity: 2,
      logits: badLogits,
    }),
    choose(`${score}, NaN and infinite logits, experts choose`, {
      experts: 60,
      topK: 4,
      tokens: 8,
      score,
      choice: 'expert',
      capacity: 3,
      logits: badLogits,
    }),
    choose(`${score}, NaN and infinite logits`, { experts: 60, topK: 4, tokens: 8, score, logits: badLogits }),
    choose(`${score}, NaN and infinite logits, limited runs`, {
      experts: 60,
      topK: 4,
      tokens: 8,
      score,
      logits: badLogits,
      expertGroups: 6,
      keptGroups: 1,
    }),
  ]),
  choose('300 tokens, then fewer, then more', { experts: 60, topK: 4, tokens: [300, 7, 0, 303], renormalize: true }),
  choose('65 tokens, 257 experts', { experts: 257, topK: 8, tokens: [65, 64, 65], score: 'sigmoid' }),
  choose('150 tokens, limited runs with a bias', {
    experts: 256,
    topK: 8,
    tokens: [150, 1],
    score: 'sigmoid',
    biased: true,
    renormalize: true,
    expertGroups: 8,
    keptGroups: 4,
    scale: 2.5,
  }),
  choose('one hot expert, 300 tokens', { experts: 16, topK: 2, tokens: [300, 300], logits: hot(16) }),
  choose('more choices than blocks keep, 6000 tokens', { experts: 7, topK: 7, tokens: [6000, 5], capacity: 4000 }),
  choose('one hot expert, a capacity', { experts: 16, topK: 2, tokens: [300, 20], logits: hot(16), capacity: 131 }),
  choose('merged, coalesced, 200 tokens', { experts: 60, topK: 8, tokens: [200, 90], groupOf: merged(60, 9) }),
  choose('merged, rows apart, 200 tokens', {
    experts: 60,
    topK: 8,
    tokens: [200, 90],
    groupOf: merged(60, 9),
    coalesce: false,
  }),
  choose('1000 experts, top 40', { experts: 1000, topK: 40, tokens: [5, 2] }),
  choose('1000 experts, 70 tokens, merged, coalesced', {
    experts: 1000,
    topK: 34,
    tokens: [70, 67],
    groupOf: merged(1000, 11),
    renormalize: true,
  }),
  choose('what is above zero, 100 tokens, merged, coalesced', {
    experts: 72,
    topK: 72,
    tokens: [100, 3],
    score: 'relu',
    choice: 'non_zero',
    groupOf: merged(72, 40),
    logits: (k, tokens) => tied(tokens, 72)(k),
  }),
  choose('experts choose, 300 tokens, then fewer than their capacity', {
    experts: 60,
    topK: 5,
    tokens: [300, 9],
    choice: 'expert',
    capacity: 20,
    logits: (k, tokens) => tied(tokens, 60)(k),
  }),
  ...(['softmax', 'sigmoid', 'identity', 'relu_norm'] as const).map((score) =>
    choose(`${score}, logits almost equal`, { experts: 60, topK: 6, tokens: [9, 70], score, logits: close(60) }),
  ),
  ...(['softmax', 'sigmoid'] as const).flatMap((score) => [
    choose(`${score}, logits almost equal, a bias`, {
      experts: 60,
      topK: 6,
      tokens: [9, 70],
      score,
      biased: 'zero',
      logits: close(60),
    }),
    choose(`${score}, logits almost equal, limited runs`, {
      experts: 60,
      topK: 6,
      tokens: [9, 70],
      score,
      expertGroups: 6,
      keptGroups: 2,
      logits: close(60),
    }),
  ]),
  {
    title: 'regrouped from experts to slots',
    bound: 'transcendental',
    build(k) {
      const routing = k.g.route(k.x(29, 72, 'f32', 'logits'), { experts: 72, topK: 6, renormalize: true });
      outputs(k, k.g.regroup(routing, merged(72, 5), 5));
    },
  },
];
