/** route where ids are given. */
import type { Dtype, RouteOptions } from '../../../lib/index.ts';
import type { Case, Kit } from '../kit.ts';
import { merged, outputs } from './routing.ts';

interface Given extends RouteOptions {
  tokens: number;
  choices: (k: Kit) => Int32Array;
  gated?: Dtype;
  withLogits?: boolean;
}

function route(title: string, options: Given): Case {
  const { tokens, choices, gated, withLogits, ...attributes } = options;
  const { experts, topK } = options;
  return {
    title,
    bound: 'transcendental',
    build(k) {
      const ids = k.input('chosen', 'i32', ['tokens', topK], choices(k));
      const gates = gated ? k.input('given', gated, ['tokens', topK], k.normal(tokens * topK)) : undefined;
      const logits = withLogits ? k.input('logits', 'f32', ['tokens', experts], k.normal(tokens * experts)) : undefined;
      outputs(k, k.g.route(logits, { ...attributes, ids, gates }));
    },
  };
}

export const someNone = (k: Kit): Int32Array => k.ints(33 * 3, -1, 9);

export const given: readonly Case[] = [
  route('given ids that repeat in a token, 100 tokens', {
    experts: 5,
    topK: 40,
    tokens: 100,
    choices: (k) => k.ints(100 * 40, -1, 6),
    gated: 'f32',
    capacity: 300,
  }),
  route('given ids that repeat in a token, merged, coalesced', {
    experts: 5,
    topK: 40,
    tokens: 100,
    choices: (k) => k.ints(100 * 40, -1, 6),
    gated: 'f32',
    groupOf: merged(5, 3),
  }),
  route('given ids and gates, some none, one out of range', {
    experts: 8,
    topK: 3,
    tokens: 33,
    choices: someNone,
    gated: 'f32',
  }),
  route('given ids, bf16 gates, renormalized and scaled', {
    experts: 9,
    topK: 3,
    tokens: 33,
    choices: someNone,
    gated: 'bf16',
    renormalize: true,
    scale: 0.5,
  }),
  route('given ids, gates from the logits', { experts: 9, topK: 3, tokens: 33, choices: someNone, withLogits: true }),
  route('given ids, sigmoid gates from the logits, renormalized', {
    experts: 9,
    topK: 3,
    tokens: 33,
    choices: someNone,
    withLogits: true,
    score: 'sigmoid',
    renormalize: true,
  }),
  route('given ids, merged, coalesced', {
    experts: 9,
    topK: 3,
    tokens: 33,
    choices: someNone,
    gated: 'f32',
    groupOf: merged(9, 2),
  }),
  route('given ids, capacity 2', { experts: 9, topK: 3, tokens: 33, choices: someNone, gated: 'f32', capacity: 2 }),
  route('given ids, gates from the logits, merged, coalesced, capacity 3', {
    experts: 9,
    topK: 3,
    tokens: 33,
    choices: someNone,
    withLogits: true,
    renormalize: true,
    groupOf: merged(9, 2),
    capacity: 3,
  }),
  route('given ids, all none', {
    experts: 9,
    topK: 3,
    tokens: 4,
    choices: () => new Int32Array(12).fill(-1),
    gated: 'f32',
  }),
];
