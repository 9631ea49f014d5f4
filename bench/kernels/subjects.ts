/**
 * One small graph a kernel form, with every size at its largest, so that what a kernel moves can be held against the plan that
 * its launch declares. Small enough for the simt device, which runs a fiber a CUDA thread.
 */
import {
  type Device,
  type Dtype,
  f32ToBf16,
  Graph,
  type HostArray,
  type Shape,
  Tensor,
  type Value,
  Weight,
  type WeightFormat,
  type WeightSpec,
  type WeightValues,
} from '../../lib/index.ts';

export interface Subject {
  readonly title: string;
  build(kit: Kit): Promise<void> | void;
}

/** A graph with its inputs. */
export class Kit {
  readonly device: Device;
  readonly graph: Graph;
  readonly inputs: Record<string, HostArray | Tensor> = {};
  #seed = 12345;

  constructor(device: Device) {
    this.device = device;
    this.graph = new Graph(device);
  }

  /** Uniform in −1 … 1, the same in every run. */
  random(count: number): Float32Array {
    return Float32Array.from({ length: count }, () => {
      this.#seed = (Math.imul(this.#seed, 1664525) + 1013904223) | 0;
      return this.#seed / 2 ** 31;
    });
  }

  floats(name: string, shape: readonly number[], dtype: Dtype = 'bf16'): Value {
    const data = this.random(elements(shape));
    this.inputs[name] = dtype === 'bf16' ? f32ToBf16(data) : data;
    return this.graph.input(name, dtype, shape as Shape);
  }

  integers(name: string, values: ArrayLike<number>): Value {
    this.inputs[name] = Int32Array.from(values);
    return this.graph.input(name, 'i32', [values.length]);
  }

  constant(shape: readonly number[], dtype: Dtype = 'f32'): Promise<Tensor> {
    const data = this.random(elements(shape));
    return Tensor.from(this.device, dtype === 'bf16' ? f32ToBf16(data) : data, { dtype, shape });
  }

  async state(name: string, dtype: Dtype, shape: readonly number[]): Promise<Value> {
    this.inputs[name] =
      dtype === 'f64' ? await Tensor.zeros(this.device, dtype, shape) : await this.constant(shape, dtype);
    return this.graph.state(name, dtype, shape as Shape);
  }

  weight(spec: WeightSpec): Promise<Weight> {
    return Weight.from(this.device, spec, this.random((spec.slots ?? 1) * spec.in * spec.out));
  }

  output(name: string, value: Value): void {
    this.graph.output(name, value);
  }

  /** One run. */
  async run(): Promise<void> {
    const program = this.graph.compile({});
    await program.run(this.inputs);
    program.dispose();
  }
}

const elements = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);
const upTo = (count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => i);

const bf16: WeightFormat = { format: 'bf16' };
const int4: WeightFormat = { format: 'int4', groupSize: 128, offset: false };

function dense(title: string, tokens: number, format: WeightFormat, mode: 'exact' | 'int8' = 'exact'): Subject {
  return {
    title: `linear ${title}`,
    async build(kit) {
      const weight = await kit.weight({ in: 512, out: 256, format });
      kit.output('y', kit.graph.linear(kit.floats('x', [tokens, 512]), weight, { mode }));
    },
  };
}

/** Every slot has rows. */
function grouped(title: string, tokens: number, slots: number, format: WeightFormat): Subject {
  return {
    title: `linear grouped ${title}`,
    async build(kit) {
      const topK = 2;
      const ids = Int32Array.from({ length: tokens * topK }, (_, i) => i % slots);
      kit.inputs.ids = ids;
      const routing = kit.graph.route(undefined, {
        experts: slots,
        topK,
        ids: kit.graph.input('ids', 'i32', [tokens, topK]),
        gates: kit.floats('gates', [tokens, topK], 'f32'),
      });
      const weight = await kit.weight({ in: 256, out: 256, slots, gated: true, format });
      kit.output(
        'y',
        kit.graph.linear(kit.floats('x', [tokens, 256]), weight, { routing, activation: 'swiglu', mode: 'exact' }),
      );
    },
  };
}

function route(tokens: number, experts: number): Subject {
  return {
    title: `route ${tokens} × ${experts}`,
    build(kit) {
      const routing = kit.graph.route(kit.floats('logits', [tokens, experts], 'f32'), {
        experts,
        topK: 8,
        renormalize: true,
      });
      for (const name of ['ids', 'gates', 'rowOf', 'tokenOf', 'gateOf', 'offsets'] as const)
        kit.output(name, routing[name]);
    },
  };
}

/** The product of a router and the route behind it, which x outlives. */
function router(tokens: number, experts: number): Subject {
  return {
    title: `router + route, ${tokens} ${tokens === 1 ? 'token' : 'tokens'}`,
    async build(kit) {
      const x = kit.floats('x', [tokens, 512], 'f32');
      const weight = await kit.weight({ in: 512, out: experts, format: bf16 });
      const routing = kit.graph.route(kit.graph.linear(x, weight), { experts, topK: 8, renormalize: true });
      for (const name of ['ids', 'gates', 'rowOf', 'tokenOf', 'gateOf', 'offsets'] as const)
        kit.output(name, routing[name]);
    },
  };
}

/** `tokens` of one sequence that then has `keys` keys. */
function attention(title: string, tokens: number, keys: number): Subject {
  return {
    title: `attention ${title}`,
    async build(kit) {
      const [heads, kvHeads, headDim, pageSize] = [4, 2, 64, 16];
      const pages = Math.ceil(keys / pageSize);
      kit.output(
        'y',
        kit.graph.attention({
          q: kit.floats('q', [tokens, heads * headDim]),
          k: kit.floats('k', [tokens, kvHeads * headDim]),
          v: kit.floats('v', [tokens, kvHeads * headDim]),
          positions: kit.integers(
            'positions',
            upTo(tokens).map((t) => keys - tokens + t),
          ),
          sequence: kit.integers('sequence', new Int32Array(tokens)),
          lengths: kit.integers('lengths', [keys]),
          pages: kit.integers('pages', upTo(pages)),
          kCache: await kit.state('keys', 'bf16', [pages, pageSize, kvHeads * headDim]),
          vCache: await kit.state('values', 'bf16', [pages, pageSize, kvHeads * headDim]),
          heads,
          kvHeads,
        }),
      );
    },
  };
}

/** An MLP in which the rows between the two matrices are handed on as codes. */
function handedOn(title: string, tokens: number, down: WeightFormat): Subject {
  return {
    title: `linear → linear int8 ${title}`,
    async build(kit) {
      const first = await kit.weight({ in: 256, out: 1024, gated: true, format: int4 });
      const second = await kit.weight({ in: 512, out: 256, format: down });
      const x = kit.floats('x', [tokens, 256]);
      const hidden = kit.graph.linear(x, first, { activation: 'swiglu', mode: 'exact' });
      kit.output('y', kit.graph.linear(hidden, second, { mode: 'int8' }));
    },
  };
}

/** Low-rank factors alone or over a base, kept rows, an n:m part. */
function parts(
  title: string,
  tokens: number,
  spec: Partial<WeightSpec>,
  values: (kit: Kit) => WeightValues,
  mode: 'exact' | 'int8' = 'exact',
): Subject {
  return {
    title: `linear ${title}`,
    async build(kit) {
      const weight = await Weight.from(kit.device, { in: 256, out: 256, ...spec }, values(kit));
      kit.output('y', kit.graph.linear(kit.floats('x', [tokens, 256]), weight, { mode }));
    },
  };
}

export const subjects: readonly Subject[] = [
  {
    title: 'embed',
    build: async (kit) =>
      kit.output('y', kit.graph.embed(kit.integers('ids', upTo(32)), await kit.constant([32, 256], 'bf16'))),
  },
  {
    title: 'norm, residual',
    async build(kit) {
      const weight = await kit.constant([512]);
      const { y, sum } = kit.graph.addNorm(kit.floats('x', [16, 512]), kit.floats('residual', [16, 512]), weight);
      kit.output('y', y);
      kit.output('sum', sum);
    },
  },
  {
    title: 'rotate',
    async build(kit) {
      const frequencies = await kit.constant([32]);
      const positions = kit.integers('positions', upTo(16));
      kit.output('y', kit.graph.rotate(kit.floats('x', [16, 512]), positions, frequencies, { heads: 8 }));
    },
  },
  {
    title: 'map',
    build: (kit) => kit.output('y', kit.graph.multiply(kit.floats('a', [16, 512]), kit.floats('b', [16, 512]))),
  },
  {
    title: 'take',
    build: (kit) =>
      kit.output(
        'y',
        kit.graph.take(
          kit.floats('x', [32, 256]),
          kit.integers(
            'index',
            upTo(32).map((i) => 31 - i),
          ),
        ),
      ),
  },
  {
    title: 'convolve',
    async build(kit) {
      const state = await kit.state('state', 'f32', [1, 3 * 256]);
      const [sequence, positions] = [kit.integers('sequence', new Int32Array(16)), kit.integers('positions', upTo(16))];
      kit.output(
        'y',
        kit.graph.convolve(kit.floats('x', [16, 256]), await kit.constant([256, 4]), sequence, positions, state),
      );
    },
  },
  {
    title: 'score',
    build(kit) {
      const logits = kit.floats('logits', [4, 4096], 'f32');
      const { logProbability, topIds } = kit.graph.score(logits, { ids: kit.integers('ids', upTo(4)), topK: 4 });
      if (logProbability) kit.output('p', logProbability);
      if (topIds) kit.output('top', topIds);
    },
  },
  {
    title: 'accumulate gram',
    build: async (kit) =>
      kit.graph.accumulate('gram', kit.floats('a', [32, 128], 'f32'), await kit.state('state', 'f64', [128, 128])),
  },
  {
    title: 'combine',
    build(kit) {
      const [tokens, topK, width] = [16, 2, 256];
      kit.inputs.ids = Int32Array.from({ length: tokens * topK }, (_, i) => i % 4);
      const routing = kit.graph.route(undefined, {
        experts: 4,
        topK,
        ids: kit.graph.input('ids', 'i32', [tokens, topK]),
        gates: kit.floats('gates', [tokens, topK], 'f32'),
      });
      kit.output('y', kit.graph.combine(kit.floats('rows', [tokens * topK, width]), routing));
    },
  },
  route(8, 128),
  route(256, 64),
  router(1, 128),
  router(16, 128),
  attention('decode', 1, 256),
  attention('prefill', 64, 64),
  dense('decode int4:128, 1 token', 1, int4),
  dense('decode int4:128, 16 tokens', 16, int4),
  dense('decode int8, 1 token', 1, { format: 'int8' }),
  dense('decode bf16, 1 token', 1, bf16),
  dense('decode int4:128 int8, 1 token', 1, int4, 'int8'),
  dense('tiles int4:128, 128 tokens', 128, int4),
  dense('tiles int8, 128 tokens', 128, { format: 'int8' }),
  dense('tiles bf16, 128 tokens', 128, bf16),
  dense('tiles int8 int8, 128 tokens', 128, { format: 'int8' }, 'int8'),
  grouped('decode int4:128, 4 tokens of 8 slots', 4, 8, int4),
  grouped('tiles int4:128, 96 tokens of 4 slots', 96, 4, int4),
  handedOn('decode int8, 1 token', 1, { format: 'int8' }),
  handedOn('tiles int4:128, 128 tokens', 128, int4),
  ...[1, 128].flatMap((tokens) => [
    parts(`int4:128 + rank 32, ${tokens} tokens`, tokens, { format: int4, lowRank: { rank: 32 } }, (kit) => ({
      base: kit.random(256 * 256),
      lowRank: { a: kit.random(32 * 256), b: kit.random(256 * 32) },
    })),
    parts(
      `rank 32 + 26 rows, ${tokens} tokens`,
      tokens,
      { lowRank: { rank: 32 }, rows: { count: 26, format: bf16 } },
      (kit) => ({
        lowRank: { a: kit.random(32 * 256), b: kit.random(256 * 32) },
        rows: { values: kit.random(26 * 256), index: upTo(26) },
      }),
    ),
    ...(['exact', 'int8'] as const).map((mode) =>
      parts(
        `int4:128 + rank 32 + 2:4 int4:128${mode === 'int8' ? ' int8' : ''}, ${tokens} tokens`,
        tokens,
        { format: int4, lowRank: { rank: 32 }, sparse: { n: 2, m: 4, format: int4 } },
        (kit) => ({
          base: kit.random(256 * 256),
          lowRank: { a: kit.random(32 * 256), b: kit.random(256 * 32) },
          sparse: {
            values: kit.random(256 * 128),
            index: Uint8Array.from({ length: 256 * 128 }, (_, i) => (i % 2) * 2),
          },
        }),
        mode,
      ),
    ),
    parts(`2:4 int4:128, ${tokens} tokens`, tokens, { sparse: { n: 2, m: 4, format: int4 } }, (kit) => ({
      sparse: { values: kit.random(256 * 128), index: Uint8Array.from({ length: 256 * 128 }, (_, i) => (i % 2) * 2) },
    })),
    parts(`1:8 bf16, ${tokens} tokens`, tokens, { sparse: { n: 1, m: 8, format: bf16 } }, (kit) => ({
      sparse: { values: kit.random(256 * 32), index: new Uint8Array(256 * 32) },
    })),
  ]),
];
