/** Folders as `compress` writes them: quantized matrices with their scales, and merged layers. */
import { strict as assert } from 'node:assert';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addon } from '../../lib/addon.ts';
import { Checkpoint } from '../../lib/checkpoint/checkpoint.ts';
import { plainPart } from '../../lib/checkpoint/compressed.ts';
import { partEntries, type StoredIntegers } from '../../lib/checkpoint/stored-matrix.ts';
import { SafetensorsWriter, type WriterEntry } from '../../lib/checkpoint/writer.ts';
import type { Device } from '../../lib/device/device.ts';
import { openDevice } from '../../lib/device/open.ts';
import { Model } from '../../lib/model/model.ts';
import { nativeForm } from '../../lib/weight/format.ts';
import { relativeError } from '../golden/case.ts';
import { goldenFolder, moeError, tinyModel } from './support.ts';

const expert = /^(.*\.experts\.)(\d+)(\..*)\.weight$/;

/** How a folder is rewritten: tensor `name` gets the content of `source(name)`, or is left out; `weights` quantizes experts. */
interface Rewrite {
  readonly source?: (name: string) => string | undefined;
  readonly weights?: StoredIntegers;
  readonly layers?: Record<string, { groups: number; groupOf: number[] }>;
  readonly drop?: (name: string) => boolean;
}

async function withRewritten<T>(folder: string, rewrite: Rewrite, body: (copy: string) => Promise<T>): Promise<T> {
  const copy = await mkdtemp(join(tmpdir(), 'node-moe-'));
  try {
    await cp(folder, copy, { recursive: true });
    await using checkpoint = await Checkpoint.open(folder);
    const parts = new Map<string, { entry: WriterEntry; bytes: ArrayBufferView }>();
    for (const { name } of checkpoint.tensors.values()) await addTensor(checkpoint, name, rewrite, parts);
    const kept = [...parts.values()].filter(({ entry }) => !rewrite.drop?.(entry.name));
    const writer = await SafetensorsWriter.create(
      join(copy, 'model.safetensors'),
      kept.map(({ entry }) => entry),
    );
    for (const { entry, bytes } of kept) await writer.write(entry.name, bytes);
    await writer.finish();
    const { weights = null, layers = {} } = rewrite;
    const moe = { version: 1, madeBy: 'node-moe 0.1.0', recipe: {}, weights, layers };
    await writeFile(join(copy, 'config.json'), JSON.stringify({ ...checkpoint.config, moe }));
    return await body(copy);
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}

async function addTensor(
  checkpoint: Checkpoint,
  name: string,
  { source, weights }: Rewrite,
  parts: Map<string, { entry: WriterEntry; bytes: ArrayBufferView }>,
): Promise<void> {
  const from = source ? source(name) : name;
  if (from === undefined) return;
  const { dtype, shape } = checkpoint.entry(from);
  if (!weights || !expert.test(name)) {
    parts.set(name, { entry: { name, dtype, shape }, bytes: await checkpoint.read(from) });
    return;
  }
  const [rows = 0, columns = 0] = shape;
  const entries = partEntries(plainPart(name, weights, rows, columns));
  const bytes = entries.map((entry) => {
    const elements = entry.shape.reduce((product, size) => product * size, 1);
    return new Uint8Array(elements * ({ F32: 4, F16: 2 }[entry.dtype as string] ?? 1));
  });
  const of = (part: string) => bytes[entries.findIndex((entry) => entry.name === part)];
  const [values, scale, offset] = [name, `${name}_scale`, `${name}_offset`];
  const matrix = await checkpoint.readF32(from);
  await addon().quantize(matrix, rows, columns, nativeForm(weights), of(values) as Uint8Array, of(scale), of(offset));
  for (const [index, entry] of entries.entries()) parts.set(entry.name, { entry, bytes: bytes[index] as Uint8Array });
}

describe('compressed folders', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('cpu');
  });
  after(() => device.dispose());

  const ids = Int32Array.from({ length: 40 }, (_, index) => (index * 37) % 61);

  for (const weights of [
    { format: 'int4', groupSize: 32, offset: true, scale: 'f16' },
    { format: 'int4', groupSize: 'channel', offset: false, scale: 'f32' },
    { format: 'int8', groupSize: 'channel', offset: false, scale: 'f32' },
    { format: 'int8', groupSize: 64, offset: true, scale: 'f16' },
  ] as const satisfies readonly StoredIntegers[]) {
    it(`are loaded as stored: ${Object.values(weights).join(' ')}`, async () => {
      await using direct = await Model.open(tinyModel, { device, weights });
      const expected = await direct.logits(ids);
      await withRewritten(tinyModel, { weights }, async (copy) => {
        await using model = await Model.open(copy, { device });
        assert.deepEqual((await model.logits(ids)).data, expected.data);
        assert.equal(model.memory().weights, direct.memory().weights);
        assert.ok(model.bytes < direct.bytes);
        await using wide = await Model.open(copy, { device, weights: { format: 'f32' } });
        await using exact = await Model.open(tinyModel, { device, weights: { ...weights, activation: 'exact' } });
        const error = relativeError((await wide.logits(ids)).data, (await exact.logits(ids)).data);
        assert.ok(error < 1e-4, `${error}`);
      });
    });
  }

  for (const family of ['mixtral', 'qwen2_moe', 'qwen3_moe', 'olmoe']) {
    it(`${family}: a merged layer runs every expert as its slot`, async () => {
      const groups = 3;
      const groupOf = [0, 1, 2, 0, 0, 2, 1, 0];
      const inFirst = (name: string) => (name.includes('.layers.0.') ? expert.exec(name) : null);
      // The same network with eight experts, of which those of a group are equal.
      const spread = (name: string): string => {
        const [, head, index, tail] = inFirst(name) ?? [];
        return head === undefined ? name : `${head}${groupOf[Number(index)]}${tail}.weight`;
      };
      const merged = (name: string) => (Number(inFirst(name)?.[2] ?? 0) < groups ? name : undefined);
      const folder = goldenFolder(family);
      const logits = (copy: string, target: Device) => async () => {
        await using model = await Model.open(copy, { device: target });
        return (await model.logits(ids)).data;
      };
      const expected = await withRewritten(folder, { source: spread }, (copy) => logits(copy, device)());
      await using reference = await openDevice('reference');
      await withRewritten(folder, { source: merged, layers: { 0: { groups, groupOf } } }, async (copy) => {
        for (const target of [device, reference]) {
          const error = relativeError(await logits(copy, target)(), expected);
          assert.ok(error < 1e-5, `${target.name}: ${error}`);
        }
      });
    });
  }

  it('with scales missing or strange are refused', async () => {
    const weights = { format: 'int4', groupSize: 32, offset: true, scale: 'f16' } as const;
    const name = 'model.layers.1.mlp.experts.3.up_proj.weight';
    const [scale, offset] = [`${name}_scale`, `${name}_offset`];
    const opened = (rewrite: Rewrite) => withRewritten(tinyModel, rewrite, (copy) => Model.open(copy, { device }));
    await assert.rejects(
      opened({ weights, drop: (part) => part === offset }),
      moeError('CHECKPOINT_TENSOR_MISSING', /up_proj/),
    );
    await assert.rejects(opened({ weights, drop: (part) => part === scale }), moeError('DTYPE_MISMATCH', /up_proj/));
    const groupOf = new Array<number>(16).fill(0);
    await assert.rejects(
      opened({ layers: { 1: { groups: 1, groupOf } } }),
      moeError('CHECKPOINT_TENSOR_UNKNOWN', /experts/),
    );
  });
});
