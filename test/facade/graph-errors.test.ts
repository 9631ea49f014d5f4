/** A mistake in a graph throws at the line that made it, with the argument's name, what was expected and what came. */
import assert from 'node:assert/strict';
import {
  type Device,
  type ErrorCode,
  Graph,
  MoeError,
  openDevice,
  Tensor,
  type Value,
  Weight,
} from '../../lib/index.ts';
import { moeError, normal } from './support.ts';

interface Parts {
  device: Device;
  x: Value;
  ids: Value;
  weight: Weight;
  gated: Weight;
  bank: Weight;
  table: Tensor<'f32'>;
  indices: Tensor<'i32'>;
}

const mistakes: [title: string, code: ErrorCode, argument: string, make: (g: Graph, parts: Parts) => unknown][] = [
  ['an input with a dtype that is none', 'DTYPE_MISMATCH', 'dtype', (g) => g.input('z', 'f13' as never, [1])],
  ['a name twice', 'INVALID_ARGUMENT', 'name', (g) => g.input('x', 'f32', [1])],
  ['an empty name', 'INVALID_ARGUMENT', 'name', (g) => g.input('', 'f32', [1])],
  ['a name that objects treat specially', 'INVALID_ARGUMENT', 'name', (g) => g.input('__proto__', 'f32', [1])],
  ['such an output', 'INVALID_ARGUMENT', 'name', (g, { x }) => g.output('__proto__', x)],
  [
    'a routing that is none',
    'INVALID_ARGUMENT',
    'routing',
    (g, { x, weight }) => g.linear(x, weight, { routing: {} as never }),
  ],
  ['a negative dimension', 'SHAPE_MISMATCH', 'shape', (g) => g.input('z', 'f32', [-1])],
  ['a fraction of a dimension', 'SHAPE_MISMATCH', 'shape', (g) => g.input('z', 'f32', [1.5])],
  ['no dimension', 'SHAPE_MISMATCH', 'shape', (g) => g.input('z', 'f32', [])],
  ['five dimensions', 'SHAPE_MISMATCH', 'shape', (g) => g.input('z', 'f32', [1, 1, 1, 1, 1])],
  ['a symbol inside', 'SHAPE_MISMATCH', 'shape', (g) => g.input('z', 'f32', [4, 'tokens'])],
  ['a factor of 0', 'SHAPE_MISMATCH', 'shape', (g) => g.input('z', 'f32', [{ factor: 0, symbol: 'tokens' }])],
  ['an output that is no value', 'INVALID_ARGUMENT', 'value', (g) => g.output('y', {} as Value)],
  [
    'a value of another graph',
    'INVALID_ARGUMENT',
    'x',
    (g, { device }) => g.norm(new Graph(device).input('x', 'f32', ['tokens', 64]), undefined),
  ],
  ['embed: float ids', 'DTYPE_MISMATCH', 'embed.ids', (g, { x, table }) => g.embed(x, table)],
  [
    'embed: a table of integers',
    'DTYPE_MISMATCH',
    'embed.table',
    (g, { ids, indices }) => g.embed(ids, indices, { dtype: 'f32' }),
  ],
  ['norm: a weight of another width', 'SHAPE_MISMATCH', 'norm.weight', (g, { x, table }) => g.norm(x, table)],
  [
    'norm: a width that does not divide',
    'INVALID_ARGUMENT',
    'norm.width',
    (g, { x }) => g.norm(x, undefined, { width: 7 }),
  ],
  [
    'norm: a kind that is none',
    'INVALID_ARGUMENT',
    'norm.kind',
    (g, { x }) => g.norm(x, undefined, { kind: 'batch' as never }),
  ],
  ['norm: epsilon below 0', 'INVALID_ARGUMENT', 'norm.epsilon', (g, { x }) => g.norm(x, undefined, { epsilon: -1 })],
  [
    'linear: another width',
    'SHAPE_MISMATCH',
    'linear.x',
    (g, { weight }) => g.linear(g.input('z', 'f32', ['tokens', 63]), weight),
  ],
  ['linear: integers', 'DTYPE_MISMATCH', 'linear.x', (g, { ids, weight }) => g.linear(ids, weight)],
  ['linear: no weight', 'INVALID_ARGUMENT', 'weight', (g, { x }) => g.linear(x, undefined as never)],
  [
    'linear: swiglu without a gated weight',
    'INVALID_ARGUMENT',
    'linear.activation',
    (g, { x, weight }) => g.linear(x, weight, { activation: 'swiglu' }),
  ],
  [
    'linear: a gated weight without swiglu',
    'INVALID_ARGUMENT',
    'linear.activation',
    (g, { x, gated }) => g.linear(x, gated),
  ],
  [
    'linear: int8 over float weights',
    'INVALID_ARGUMENT',
    'linear.mode',
    (g, { x, weight }) => g.linear(x, weight, { mode: 'int8' }),
  ],
  [
    'linear: a residual of another shape',
    'SHAPE_MISMATCH',
    'linear.residual',
    (g, { x, weight }) => g.linear(x, weight, { residual: g.input('r', 'f32', ['tokens', 63]) }),
  ],
  [
    'linear: slots other than the routing',
    'SHAPE_MISMATCH',
    'linear.offsets',
    (g, { x, bank }) =>
      g.linear(x, bank, { routing: g.route(g.input('l', 'f32', ['tokens', 5]), { experts: 5, topK: 1 }) }),
  ],
  [
    'rotate: heads that do not divide',
    'SHAPE_MISMATCH',
    'rotate.x',
    (g, { x, ids, table }) => g.rotate(x, ids, table, { heads: 7 }),
  ],
  [
    'rotate: no heads',
    'INVALID_ARGUMENT',
    'rotate.heads',
    (g, { x, ids, table }) => g.rotate(x, ids, table, { heads: 0 }),
  ],
  ['map: b of another width', 'SHAPE_MISMATCH', 'map.b', (g, { x }) => g.add(x, g.input('z', 'f32', ['tokens', 63]))],
  ['map: a function that is none', 'INVALID_ARGUMENT', 'map.function', (g, { x }) => g.map('cosine' as never, x)],
  [
    'route: more choices than experts',
    'INVALID_ARGUMENT',
    'route.topK',
    (g, { x }) => g.route(x, { experts: 64, topK: 65 }),
  ],
  [
    'route: columns other than experts',
    'SHAPE_MISMATCH',
    'route.logits',
    (g, { x }) => g.route(x, { experts: 60, topK: 2 }),
  ],
  [
    'route: runs that do not divide',
    'INVALID_ARGUMENT',
    'route.expertGroups',
    (g, { x }) => g.route(x, { experts: 64, topK: 2, expertGroups: 7, keptGroups: 1 }),
  ],
  [
    'route: experts that choose without a capacity',
    'INVALID_ARGUMENT',
    'route.capacity',
    (g, { x }) => g.route(x, { experts: 64, topK: 2, choice: 'expert' }),
  ],
  [
    'route: experts that choose with a bias',
    'INVALID_ARGUMENT',
    'route.bias',
    (g, { x, table }) => g.route(x, { experts: 64, topK: 2, choice: 'expert', capacity: 1, bias: table }),
  ],
  [
    'route: runs where experts choose',
    'INVALID_ARGUMENT',
    'route.expertGroups',
    (g, { x }) => g.route(x, { experts: 64, topK: 2, choice: 'expert', capacity: 1, expertGroups: 8 }),
  ],
  [
    'route: runs of what is above zero',
    'INVALID_ARGUMENT',
    'route.expertGroups',
    (g, { x }) => g.route(x, { experts: 64, topK: 2, choice: 'non_zero', expertGroups: 8 }),
  ],
  [
    'route: a choice where ids are given',
    'INVALID_ARGUMENT',
    'route.choice',
    (g, { x }) => g.route(x, { experts: 64, topK: 2, choice: 'non_zero', ids: g.input('i', 'i32', ['tokens', 2]) }),
  ],
  [
    'route: a choice that is none',
    'INVALID_ARGUMENT',
    'route.choice',
    (g, { x }) => g.route(x, { experts: 64, topK: 2, choice: 'best' as never }),
  ],
  [
    'route: a capacity below zero',
    'INVALID_ARGUMENT',
    'route.capacity',
    (g, { x }) => g.route(x, { experts: 64, topK: 2, capacity: -1 }),
  ],
  ['take: a float index', 'DTYPE_MISMATCH', 'take.index', (g, { x }) => g.take(x, g.input('i', 'f32', ['rows']))],
  [
    'accumulate: a state that is an input',
    'INVALID_ARGUMENT',
    'accumulate.state',
    (g, { x }) => g.accumulate('sum', x, g.input('s', 'f64', [64])),
  ],
  [
    'accumulate: a state of another dtype',
    'DTYPE_MISMATCH',
    'accumulate.state',
    (g, { x }) => g.accumulate('sum', x, g.state('s', 'f32', [64])),
  ],
  [
    'accumulate: a state of another shape',
    'SHAPE_MISMATCH',
    'accumulate.state',
    (g, { x }) => g.accumulate('gram', x, g.state('s', 'f64', [64])),
  ],
  [
    'compile: a symbol without a bound',
    'INVALID_ARGUMENT',
    'maxSizes.tokens',
    (g, { x }) => g.output('y', g.norm(x, undefined)).compile({}),
  ],
  [
    'compile: a bound that is no size',
    'INVALID_ARGUMENT',
    'maxSizes.tokens',
    (g, { x }) => g.output('y', g.norm(x, undefined)).compile({ tokens: -1 }),
  ],
];

describe('a mistake in a graph', () => {
  let device: Device;
  let parts: Omit<Parts, 'x' | 'ids'>;
  before(async () => {
    device = await openDevice('reference');
    const format = { format: 'f32' } as const;
    parts = {
      device,
      weight: await Weight.from(device, { in: 64, out: 64, format }, normal(64 * 64)),
      gated: await Weight.from(device, { in: 64, out: 8, gated: true, format }, normal(64 * 8)),
      bank: await Weight.from(device, { in: 64, out: 2, slots: 4, format }, normal(64 * 8)),
      table: await Tensor.from(device, normal(8), { dtype: 'f32', shape: [2, 4] }),
      indices: await Tensor.from(device, Int32Array.of(1, 2), { dtype: 'i32', shape: [2, 1] }),
    };
  });
  after(() => device.dispose());

  for (const [title, code, argument, make] of mistakes) {
    it(`${title}: ${code}`, () => {
      const g = new Graph(device);
      const x = g.input('x', 'f32', ['tokens', 64]);
      const ids = g.input('ids', 'i32', ['tokens']);
      assert.throws(() => make(g, { ...parts, x, ids }), moeError(code, argument));
    });
  }

  it('shows the line that made it', () => {
    const g = new Graph(device);
    const wrong = (): void => void g.linear(g.input('x', 'f32', ['tokens', 63]), parts.weight);
    assert.throws(wrong, (error: MoeError) => error.stack?.includes('graph-errors.test.ts') ?? false);
  });

  it('leaves the graph as it was', async () => {
    const g = new Graph(device);
    const x = g.input('x', 'f32', ['tokens', 64]);
    assert.throws(() => g.norm(x, parts.table), MoeError);
    const program = g.output('y', g.linear(x, parts.weight)).compile({ tokens: 2 });
    const { y } = await program.run({ x: normal(64) });
    assert.deepEqual(y?.shape, [1, 64]);
    program.dispose();
  });

  it('refuses a call after compile', () => {
    const g = new Graph(device);
    g.output('y', g.norm(g.input('x', 'f32', ['tokens', 64]), undefined)).compile({ tokens: 1 });
    assert.throws(() => g.input('z', 'f32', [1]), moeError('INVALID_ARGUMENT', 'graph'));
  });

  it('refuses parts of another device', async () => {
    const other = await openDevice('reference');
    const g = new Graph(other);
    const x = g.input('x', 'f32', ['tokens', 64]);
    assert.throws(() => g.linear(x, parts.weight), moeError('INVALID_ARGUMENT', 'weight'));
    assert.throws(() => g.norm(x, parts.table), moeError('INVALID_ARGUMENT', 'weight'));
    other.dispose();
  });
});
