import { copyFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { addon } from '../addon.ts';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { type CompressedWeights, compressedEntries, compressedNames } from '../checkpoint/compressed.ts';
import { exists, unwritable } from '../checkpoint/files.ts';
import type { OutputFolder } from '../checkpoint/folder.ts';
import { type SafetensorsDtype, tensorBytes } from '../checkpoint/safetensors.ts';
import { SafetensorsWriter, type WriterEntry } from '../checkpoint/writer.ts';
import { f32ToBf16, f32ToF16 } from '../tensor/half.ts';
import { nativeForm } from '../weight/format.ts';

/** A matrix that replaces matrices of the source. */
export interface NewMatrix {
  /** With its ending, as `….gate_proj.weight`. */
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** Stored dtype where the folder is not quantized. */
  readonly dtype: SafetensorsDtype;
}

/** Files beside the weights that make a folder loadable by anyone. */
const companions = [
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'tokenizer.model',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'chat_template.json',
  'chat_template.jinja',
  'LICENSE',
];

/** Writes the tensors of a new model folder: those kept from the source as they are, new matrices in the stored form. */
export class ModelWriter {
  readonly #folder: OutputFolder;
  readonly #source: Checkpoint;
  readonly #weights: CompressedWeights | undefined;
  readonly #matrices: ReadonlyMap<string, NewMatrix>;
  readonly #shards: readonly SafetensorsWriter[];
  readonly #shardOf: ReadonlyMap<string, SafetensorsWriter>;
  /** Bytes of all weight files, and elements of all matrices and vectors. */
  readonly bytes: number;
  readonly parameters: number;

  private constructor(
    folder: OutputFolder,
    source: Checkpoint,
    weights: CompressedWeights | undefined,
    matrices: ReadonlyMap<string, NewMatrix>,
    shardOf: ReadonlyMap<string, SafetensorsWriter>,
    parameters: number,
  ) {
    this.#folder = folder;
    this.#source = source;
    this.#weights = weights;
    this.#matrices = matrices;
    this.#shardOf = shardOf;
    this.#shards = [...new Set(shardOf.values())];
    this.bytes = this.#shards.reduce((sum, shard) => sum + shard.bytes, 0);
    this.parameters = parameters;
  }

  /**
   * Starts the weight files.
   *
   * @param kept names of source tensors that are copied
   * @param o.shardBytes tensor bytes of a file at most, but for a larger tensor; default 4 GiB
   * @throws MoeError FILE_UNWRITABLE
   */
  static async create(
    folder: OutputFolder,
    source: Checkpoint,
    kept: readonly string[],
    matrices: readonly NewMatrix[],
    weights: CompressedWeights | undefined,
    o: { shardBytes?: number } = {},
  ): Promise<ModelWriter> {
    const copies = kept.map((name) => source.entry(name));
    const made = matrices.flatMap((matrix): WriterEntry[] =>
      weights
        ? compressedEntries(matrix.name, matrix.rows, matrix.columns, weights)
        : [{ name: matrix.name, dtype: matrix.dtype, shape: [matrix.rows, matrix.columns] }],
    );
    const entries = [...copies.map(({ name, dtype, shape }) => ({ name, dtype, shape })), ...made];
    const shardOf = await createShards(folder, intoShards(entries, o.shardBytes ?? 4 * 2 ** 30));
    const elements = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);
    const parameters =
      copies.reduce((sum, { shape }) => sum + elements(shape), 0) +
      matrices.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
    return new ModelWriter(
      folder,
      source,
      weights,
      new Map(matrices.map((matrix) => [matrix.name, matrix])),
      shardOf,
      parameters,
    );
  }

  /** Copies a tensor of the source, byte for byte. */
  async copy(name: string): Promise<void> {
    await this.#write(name, await this.#source.read(name));
  }

  /** Stores f32 [rows, columns] under the name of a planned matrix. */
  async matrix(name: string, values: Float32Array): Promise<void> {
    const { rows, columns, dtype } = this.#matrices.get(name) as NewMatrix;
    if (!this.#weights) {
      const stored = dtype === 'BF16' ? f32ToBf16(values) : dtype === 'F16' ? f32ToF16(values) : values;
      await this.#write(name, stored);
      return;
    }
    const names = compressedNames(name);
    const parts = compressedEntries(name, rows, columns, this.#weights).map(
      (entry) => [entry.name, new Uint8Array(entryBytes(entry))] as const,
    );
    const part = new Map(parts);
    const form = nativeForm(this.#weights);
    const codes = part.get(names.values) as Uint8Array;
    await addon().quantize(values, rows, columns, form, codes, part.get(names.scale), part.get(names.offset));
    for (const [partName, bytes] of parts) await this.#write(partName, bytes);
  }

  /** Completes the weight files, writes config.json, copies tokenizer and generation settings. */
  async finish(config: Record<string, unknown>): Promise<void> {
    for (const shard of this.#shards) await shard.finish();
    await this.#folder.writeJson('config.json', config);
    for (const name of companions) {
      const from = join(this.#source.folder, name);
      if (!(await exists(from))) continue;
      const to = this.#folder.file(name);
      await copyFile(from, to).catch((cause) => {
        throw unwritable(to, cause);
      });
    }
  }

  async discard(): Promise<void> {
    for (const shard of this.#shards) await shard.discard();
  }

  async #write(name: string, values: ArrayBufferView): Promise<void> {
    await (this.#shardOf.get(name) as SafetensorsWriter).write(name, values);
  }
}

/** Starts a file for each group of entries, and writes the index where there are several. Returns the file of each tensor. */
async function createShards(
  folder: OutputFolder,
  groups: readonly (readonly WriterEntry[])[],
): Promise<Map<string, SafetensorsWriter>> {
  const number = (value: number): string => String(value).padStart(5, '0');
  const shardOf = new Map<string, SafetensorsWriter>();
  const shards: SafetensorsWriter[] = [];
  try {
    for (const [index, entries] of groups.entries()) {
      const numbered = `model-${number(index + 1)}-of-${number(groups.length)}.safetensors`;
      const path = folder.file(groups.length === 1 ? 'model.safetensors' : numbered);
      const shard = await SafetensorsWriter.create(path, entries, { format: 'pt' });
      shards.push(shard);
      for (const { name } of entries) shardOf.set(name, shard);
    }
    if (groups.length > 1) {
      const weightMap = Object.fromEntries([...shardOf].map(([name, { path }]) => [name, basename(path)]));
      const metadata = { total_size: groups.flat().reduce((sum, entry) => sum + entryBytes(entry), 0) };
      await folder.writeJson('model.safetensors.index.json', { metadata, weight_map: weightMap });
    }
    return shardOf;
  } catch (error) {
    for (const shard of shards) await shard.discard();
    throw error;
  }
}

function intoShards(entries: readonly WriterEntry[], shardBytes: number): WriterEntry[][] {
  const shards: WriterEntry[][] = [[]];
  let filled = 0;
  for (const entry of entries) {
    const bytes = entryBytes(entry);
    if (filled > 0 && filled + bytes > shardBytes) {
      shards.push([]);
      filled = 0;
    }
    (shards.at(-1) as WriterEntry[]).push(entry);
    filled += bytes;
  }
  return shards;
}

function entryBytes({ dtype, shape }: WriterEntry): number {
  return tensorBytes(dtype, shape) as number;
}
