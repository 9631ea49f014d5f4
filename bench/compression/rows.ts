/** The recipes of docs/compression.md. */
import type { CompressOptions } from '../../lib/index.ts';

export interface Row {
  readonly name: string;
  readonly options: Omit<CompressOptions, 'out' | 'calibrate'>;
}

const steps = (recipe: Extract<CompressOptions['recipe'], object>): Row['options'] => ({ recipe });
const published = (...list: Extract<CompressOptions['recipe'], object>['steps']): Row['options'] =>
  steps({ steps: list, recover: 'none' });
const group8 = { step: 'group', groups: 8 } as const;
const group4 = { step: 'group', groups: 4 } as const;
const sym128 = 'int4:128:symmetric';

export const rows: readonly Row[] = [
  ...[group8, group4].flatMap((group) => [
    {
      name: `published: M-SMoE ${group.groups}, aligned`,
      options: published(group, { step: 'merge', align: 'first' }),
    },
    {
      name: `published: M-SMoE ${group.groups}, not aligned`,
      options: published(group, { step: 'merge', align: 'none' }),
    },
    {
      name: `published: HC-SMoE ${group.groups}`,
      options: published({ ...group, method: 'hc-smoe' }, { step: 'merge', align: 'none' }),
    },
  ]),
  ...[8, 4].flatMap((experts) => [
    ...(['frequency', 'ean', 'reap', 'enumerate'] as const).map((method) => ({
      name: `published: ${method} prune ${experts}`,
      options: published({ step: 'prune', method, experts }),
    })),
    {
      name: `published: reap prune ${experts}, renormalized`,
      options: published({ step: 'prune', method: 'reap', gates: 'renormalized', experts }),
    },
  ]),
  ...(
    [
      [8, 16],
      [8, 3],
      [4, 16],
      [4, 5],
    ] as const
  ).map(([groups, size]) => ({
    name: `published: REAM ${groups}, groups of ${size}`,
    options: published(
      { step: 'group', method: 'ream', groups, size, sequential: true, router: 'cores' },
      { step: 'merge', align: 'ream' },
    ),
  })),
  ...['int4:128', 'int4', 'int4:symmetric', 'int8:channel:offset', 'int8'].map((weights) => ({
    name: `published: round ${weights}`,
    options: published({ step: 'quantize', weights }),
  })),
  ...['int4:128', 'int4', 'int4:symmetric'].map((weights) => ({
    name: `published: GPTQ ${weights}`,
    options: published({ step: 'quantize', method: 'gptq', weights }),
  })),
  ...(['magnitude', 'wanda', 'sparsegpt'] as const).map((method) => ({
    name: `published: ${method} 2:4`,
    options: published({ step: 'sparsify', method }),
  })),
  ...[0, 0.1, 0.25].map((rows) => ({
    name: `published: MC-SMoE 8, rank 32 + ${100 * rows} % rows`,
    options: published(
      group8,
      { step: 'merge', align: 'first' },
      { step: 'factorize', method: 'losparse', importance: 'model', rank: 32, rows },
    ),
  })),
  {
    name: 'published: MC-SMoE 8, rank 16 + 10 % rows',
    options: published(
      group8,
      { step: 'merge', align: 'first' },
      { step: 'factorize', method: 'losparse', importance: 'model', rank: 16, rows: 0.1 },
    ),
  },
  {
    name: 'published: MC-SMoE 4, rank 32 + 10 % rows',
    options: published(
      group4,
      { step: 'merge', align: 'first' },
      { step: 'factorize', method: 'losparse', importance: 'model', rank: 32, rows: 0.1 },
    ),
  },
  {
    name: 'published: LoSparse, rank 32 + 10 % rows',
    options: published({ step: 'factorize', method: 'losparse', importance: 'model', rank: 32, rows: 0.1 }),
  },
  {
    name: 'MC-SMoE 8, rank 32 + 10 % rows by importance in the layer',
    options: published(
      group8,
      { step: 'merge', align: 'first' },
      { step: 'factorize', method: 'losparse', rank: 32, rows: 0.1 },
    ),
  },
  { name: 'merge, 8 groups', options: steps({ steps: [group8, { step: 'merge' }] }) },
  { name: 'merge, 4 groups', options: steps({ steps: [group4, { step: 'merge' }] }) },
  {
    name: 'neurons of 8 groups',
    options: steps({ steps: [group8, { step: 'merge', method: 'neurons', multiple: 2 }] }),
  },
  { name: 'prune 8, refitted', options: steps({ steps: [{ step: 'prune', method: 'frequency', experts: 8 }] }) },
  ...[0.5, 0.25].map((keep) => ({
    name: `slim ${keep}, bf16`,
    options: steps({ steps: [{ step: 'slim', keep, multiple: 2 }] }),
  })),
  ...[0.5, 0.25].map((keep) => ({
    name: `slim ${keep}, 250 gradient steps`,
    options: steps({ steps: [{ step: 'slim', keep, multiple: 2 }, { step: 'reconstruct' }] }),
  })),
  { name: 'GPTQ int4, refitted', options: steps({ steps: [{ step: 'quantize', method: 'gptq', weights: 'int4' }] }) },
  ...[0.535, 0.26].map((keep) => ({
    name: `slim ${keep}, ${sym128}`,
    options: steps({
      steps: [
        { step: 'slim', keep, multiple: 2 },
        { step: 'quantize', method: 'gptq', weights: sym128 },
      ],
    }),
  })),
  {
    name: 'neurons of 8 groups, rank 32 + 10 % rows',
    options: steps({
      steps: [group8, { step: 'merge', method: 'neurons', multiple: 2 }, { step: 'factorize', rank: 32, rows: 0.1 }],
    }),
  },
  {
    name: 'merge, 8 groups, rank 32 + 10 % rows',
    options: steps({ steps: [group8, { step: 'merge' }, { step: 'factorize', rank: 32, rows: 0.1 }] }),
  },
  {
    name: 'rank 32 + 10 % rows, nothing merged',
    options: steps({ steps: [{ step: 'factorize', rank: 32, rows: 0.1 }] }),
  },
  { name: 'delta, rank 16', options: steps({ steps: [{ step: 'factorize', method: 'delta', rank: 16 }] }) },
  { name: 'sparsegpt 2:4, refitted', options: steps({ steps: [{ step: 'sparsify' }] }) },
];
