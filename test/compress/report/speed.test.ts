/** Speed bounds against counts by hand, on the tiny model and on forms of it that only the config describes. */
import { strict as assert } from 'node:assert';
import { join } from 'node:path';
import { Checkpoint } from '../../../lib/checkpoint/checkpoint.ts';
import { compress } from '../../../lib/compress/compress.ts';
import { estimateSpeed } from '../../../lib/compress/report/speed.ts';
import { inFolder, moeError, root, tinyModel } from '../../checkpoint/support.ts';

const limits = {
  readBytesPerSecond: 1e9,
  f32OperationsPerSecond: 2e9,
  int8OperationsPerSecond: 8e9,
  bf16OperationsPerSecond: 0,
};

describe('estimateSpeed', () => {
  /** Elements and bytes of the tensors whose names match. */
  function count({ tensors }: Checkpoint, which: RegExp): { elements: number; bytes: number } {
    const own = [...tensors.values()].filter(({ name }) => which.test(name));
    return {
      elements: own.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
      bytes: own.reduce((sum, { begin, end }) => sum + end - begin, 0),
    };
  }

  it('one token reads and computes its experts and all the rest; many tokens read all', async () => {
    await using checkpoint = await Checkpoint.open(tinyModel);
    const { num_local_experts: experts, num_experts_per_tok: topK } = checkpoint.config as Record<string, number>;
    const chance = (topK as number) / (experts as number);
    const own = count(checkpoint, /\.experts\./);
    const tied = checkpoint.config.tie_word_embeddings === true;
    const rest = count(checkpoint, tied ? /^(?!.*\.experts\.)/ : /^(?!.*(\.experts\.|embed_tokens))/);
    const vectors = count(checkpoint, /norm/).elements;
    const one = estimateSpeed(checkpoint, { limits });
    const row = tied ? 0 : 2 * (checkpoint.config.hidden_size as number);
    assert.ok(Math.abs(one.bytes - (chance * own.bytes + rest.bytes + row)) < 1e-6 * one.bytes);
    const operations = 2 * (chance * own.elements + rest.elements - vectors);
    assert.ok(Math.abs(one.operations.float - operations) < 1e-6 * operations);
    assert.equal(one.operations.integer, 0);
    assert.equal(one.limit, one.bytes / 1e9 > one.operations.float / 2e9 ? 'memory' : 'arithmetic');
    assert.equal(one.seconds, Math.max(one.bytes / 1e9, one.operations.float / 2e9));
    const many = estimateSpeed(checkpoint, { limits, tokens: 512 });
    assert.equal(many.limit, 'arithmetic');
    assert.ok(Math.abs(many.operations.float - 512 * operations) < 1e-6 * many.operations.float);
    assert.ok(many.bytes > 0.9999 * (own.bytes + rest.bytes) && many.bytes <= checkpoint.bytes);
    assert.equal(many.tokensPerSecond, 512 / (many.seconds as number));
  });

  it('counts merged, pruned and quantized experts by what a token runs of them', async () => {
    await inFolder(async (folder) => {
      const text = join(root, 'examples/text/node.calibrate.txt');
      const options = { calibrate: [text], calibrationTokens: 512, device: 'cpu' };
      const make = async (name: string, steps: object[]): Promise<Checkpoint> => {
        const out = join(folder, name);
        await compress(tinyModel, { ...options, out, recipe: { steps, recover: 'none' } as never });
        return Checkpoint.open(out);
      };
      await using plain = await Checkpoint.open(tinyModel);
      await using pruned = await make('pruned', [{ step: 'prune', method: 'frequency', experts: 8 }]);
      await using coded = await make('coded', [{ step: 'quantize', method: 'round', weights: 'int8' }]);
      const [before, half, small] = [plain, pruned, coded].map((checkpoint) => estimateSpeed(checkpoint, { limits }));
      const routers = count(plain, /mlp\.gate\.weight/);
      // As many experts a token as before, of which fewer are there; half of the router is gone.
      assert.ok(Math.abs((before?.operations.float ?? 0) - (half?.operations.float ?? 0) - routers.elements) < 1);
      assert.ok(Math.abs((before?.bytes ?? 0) - (half?.bytes ?? 0) - routers.bytes / 2) < 1);
      const sum = (small?.operations.float ?? 0) + (small?.operations.integer ?? 0);
      assert.ok(Math.abs(sum - (before?.operations.float ?? 0)) < 1 && (small?.operations.integer ?? 0) > 0);
      assert.ok((small?.bytes ?? 0) < (before?.bytes ?? 0));
      const many = [plain, pruned].map((checkpoint) => estimateSpeed(checkpoint, { limits, tokens: 512 }));
      assert.ok((many[1]?.bytes ?? 0) < 0.8 * (many[0]?.bytes ?? 0));
    });
  }).timeout(120_000);

  it('follows the frequencies', async () => {
    await using checkpoint = await Checkpoint.open(tinyModel);
    const layers = checkpoint.config.num_hidden_layers as number;
    const all = checkpoint.config.num_local_experts as number;
    const few = Array.from({ length: all }, (_, expert) => (expert < 4 ? 0.25 : 0));
    const frequencies = new Map(Array.from({ length: layers }, (_, layer) => [layer, few]));
    const [even, skewed] = [undefined, frequencies].map((own) =>
      estimateSpeed(checkpoint, { limits, tokens: 512, frequencies: own }),
    );
    const experts = count(checkpoint, /\.experts\./).bytes;
    assert.ok(Math.abs((even?.bytes ?? 0) - (skewed?.bytes ?? 0) - experts * (1 - 4 / all)) < 1e-6 * experts);
  });

  it('says where the device has no limits, and refuses what is none', async () => {
    await using checkpoint = await Checkpoint.open(tinyModel);
    const none = { ...limits, readBytesPerSecond: 0 };
    const { seconds, tokensPerSecond, limit } = estimateSpeed(checkpoint, { limits: none });
    assert.deepEqual([seconds, tokensPerSecond, limit], [null, null, null]);
    assert.throws(() => estimateSpeed(checkpoint, { limits, tokens: 0 }), moeError('INVALID_ARGUMENT', /tokens/));
    assert.throws(() => estimateSpeed({} as Checkpoint, { limits }), moeError('INVALID_ARGUMENT', /checkpoint/));
  });
});
