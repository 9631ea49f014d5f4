/** route behind the linear that makes its logits: devices may run both at once. */
import type { Dtype, RouteOptions, Value } from '../../../lib/index.ts';
import type { Case } from '../kit.ts';
import { merged, outputs } from './routing.ts';

interface Router extends RouteOptions {
  hidden?: number;
  /** Of each run; a number: every run has as many. */
  tokens: number | readonly number[];
  format?: 'f32' | 'bf16' | 'f16' | 'int8';
  x?: Dtype;
  /** Of the linear. */
  biased?: boolean;
  /** Of the choice. */
  corrected?: boolean;
  /** What else reads the logits, and x after the route. */
  readers?: 'x' | 'logits' | 'none';
}

function router(title: string, options: Router): Case {
  const { hidden = 256, tokens, format = 'bf16', x = 'f32', biased, corrected, readers = 'x', ...attributes } = options;
  const { experts } = options;
  return {
    title: `router: ${title}`,
    bound: 'chain',
    k: hidden,
    async build(k) {
      const weight = await k.weight({ in: hidden, out: experts, format: { format }, bias: biased ?? false });
      const bias = corrected ? await k.tensor('f32', [experts], k.normal(experts, 0.2)) : undefined;
      const rows = typeof tokens === 'number' ? tokens : 'tokens';
      const data = [tokens].flat().map((count) => k.normal(count * hidden));
      const input = k.input('x', x, [rows, hidden], ...data);
      const doubled = k.g.add(input, input);
      const logits = k.g.linear(doubled, weight, { mode: 'exact' });
      outputs(k, k.g.route(logits, { ...attributes, bias }));
      const also: Record<string, Value | undefined> = { x: doubled, logits };
      const other = also[readers];
      if (other) k.output('other', k.g.add(other, other));
    },
  };
}

export const routers: readonly Case[] = [
  router('1 token, 100 experts', { experts: 100, topK: 4, tokens: 1, renormalize: true }),
  router('1 token, 512 experts, f32', { experts: 512, topK: 10, tokens: 1, format: 'f32', biased: true }),
  router('8 experts, 2048 wide', { hidden: 2048, experts: 8, topK: 2, tokens: [5, 0, 1, 13] }),
  router('8 experts, 2048 wide, f32, a bias', {
    hidden: 2048,
    experts: 8,
    topK: 2,
    tokens: [1, 5],
    format: 'f32',
    biased: true,
  }),
  router('100 experts, sigmoid with a bias of the choice', {
    experts: 100,
    topK: 6,
    tokens: [5, 1],
    score: 'sigmoid',
    corrected: true,
    renormalize: true,
  }),
  router('100 experts, f16, bf16 activations', { experts: 100, topK: 4, tokens: [5, 13], format: 'f16', x: 'bf16' }),
  router('200 experts, f16 activations, merged, coalesced', {
    experts: 200,
    topK: 8,
    tokens: [13, 2],
    x: 'f16',
    groupOf: merged(200, 9),
  }),
  router('512 experts, a capacity', { experts: 512, topK: 8, tokens: [13, 0], capacity: 2, biased: true }),
  router('experts choose', { experts: 60, topK: 8, tokens: [13, 3], choice: 'expert', capacity: 3 }),
  router('limited runs', {
    experts: 64,
    topK: 4,
    tokens: [7, 13],
    expertGroups: 8,
    keptGroups: 3,
    score: 'sigmoid',
    corrected: true,
  }),
  router('64 tokens', { experts: 100, topK: 4, tokens: [61, 5, 0] }),
  router('no tokens', { experts: 100, topK: 4, tokens: [0] }),
  router('int8', { experts: 100, topK: 4, tokens: 5, format: 'int8' }),
  router('a width of 72', { hidden: 72, experts: 9, topK: 3, tokens: 5 }),
  router('1000 experts', { experts: 1000, topK: 3, tokens: 2 }),
  router('logits read elsewhere', { experts: 60, topK: 4, tokens: 5, readers: 'logits' }),
  router('x not read afterwards', { experts: 60, topK: 4, tokens: 5, readers: 'none' }),
];
