import { copyFile, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Checkpoint, maximumConfigBytes } from '../checkpoint/checkpoint.ts';
import { exists, readWhole, sizeOf, unwritable } from '../checkpoint/files.ts';
import type { OutputFolder } from '../checkpoint/folder.ts';
import { keepFloats } from '../checkpoint/json-floats.ts';
import { readHeader, tensorBytes } from '../checkpoint/safetensors.ts';
import type { StoredTensor } from '../checkpoint/tensor-source.ts';
import { SafetensorsWriter, type WriterEntry } from '../checkpoint/writer.ts';

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

/** Tensor bytes of a file of copied tensors at most, but for a larger tensor. */
const shardBytes = 4 * 2 ** 30;

/**
 * Writes the weight files of a new model folder: first those of what stays as it is, then one for each compressed layer. A file
 * has its name only when it is complete, so a stopped run can go on behind the last one.
 */
export class ModelWriter {
  readonly #folder: OutputFolder;
  readonly #source: Checkpoint;
  readonly #kept: readonly (readonly WriterEntry[])[];
  readonly #files: readonly string[];

  /**
   * @param kept names of source tensors that are copied, byte for byte
   * @param layers files to come
   */
  constructor(
    folder: OutputFolder,
    source: Checkpoint,
    kept: readonly string[],
    layers: number,
    o: { shardBytes?: number } = {},
  ) {
    this.#folder = folder;
    this.#source = source;
    const entries = kept.map((name): WriterEntry => {
      const { dtype, shape } = source.entry(name);
      return { name, dtype, shape };
    });
    this.#kept = intoShards(entries, o.shardBytes ?? shardBytes);
    const count = this.#kept.length + layers;
    const number = (value: number): string => String(value).padStart(5, '0');
    this.#files = Array.from({ length: count }, (_, index) =>
      count === 1 ? 'model.safetensors' : `model-${number(index + 1)}-of-${number(count)}.safetensors`,
    );
  }

  /** Copies what stays, but for files that are there already. Rejects with FILE_UNWRITABLE. */
  async copyKept(onTensor: (done: number, total: number) => void): Promise<void> {
    const total = this.#kept.reduce((sum, entries) => sum + entries.length, 0);
    let done = 0;
    for (const [index, entries] of this.#kept.entries()) {
      const path = this.#folder.file(this.#files[index] as string);
      if (await exists(path)) {
        done += entries.length;
        continue;
      }
      const writer = await SafetensorsWriter.create(path, entries, { format: 'pt' });
      try {
        for (const { name } of entries) {
          onTensor(done++, total);
          await writer.write(name, await this.#source.read(name));
        }
        await writer.finish();
      } finally {
        await writer.discard();
      }
    }
  }

  /** Writes the file of the layer at `position` among the compressed ones. Rejects with FILE_UNWRITABLE. */
  async layer(position: number, entries: readonly WriterEntry[], tensors: AsyncIterable<StoredTensor>): Promise<void> {
    const writer = await SafetensorsWriter.create(this.layerFile(position), entries, { format: 'pt' });
    try {
      for await (const { name, data } of tensors) await writer.write(name, data);
      await writer.finish();
    } finally {
      await writer.discard();
    }
  }

  /** Path of a layer's file. */
  layerFile(position: number): string {
    return this.#folder.file(this.#files[this.#kept.length + position] as string);
  }

  /** Writes the index and config.json, copies tokenizer and generation settings. Resolves to the bytes of the weight files. */
  async finish(config: Record<string, unknown>): Promise<number> {
    const weightMap: Record<string, string> = {};
    let [bytes, tensors] = [0, 0];
    for (const file of this.#files) {
      const path = this.#folder.file(file);
      const size = (await sizeOf(path)) as number;
      bytes += size;
      for (const { name, begin, end } of (await readHeader(path, size)).entries) {
        weightMap[name] = file;
        tensors += end - begin;
      }
    }
    if (this.#files.length > 1) {
      const index = { metadata: { total_size: tensors }, weight_map: weightMap };
      await this.#folder.writeJson('model.safetensors.index.json', index);
    }
    const source = await readWhole(join(this.#source.folder, 'config.json'), maximumConfigBytes);
    const text = `${JSON.stringify(config, undefined, 2)}\n`;
    await this.#folder.writeText('config.json', keepFloats(text, new TextDecoder().decode(source)));
    for (const name of companions) {
      const from = join(this.#source.folder, name);
      if (!(await exists(from))) continue;
      const to = this.#folder.file(name);
      await copyFile(from, to).catch((cause) => {
        throw unwritable(to, cause);
      });
    }
    return bytes;
  }

  /** Removes what a stopped run left half-written. */
  async tidy(): Promise<void> {
    for (const name of await readdir(this.#folder.partial)) {
      if (name.endsWith('.partial')) await rm(join(this.#folder.partial, name), { force: true });
    }
  }
}

function intoShards(entries: readonly WriterEntry[], most: number): WriterEntry[][] {
  const shards: WriterEntry[][] = [[]];
  let filled = 0;
  for (const entry of entries) {
    const bytes = tensorBytes(entry.dtype, entry.shape) as number;
    if (filled > 0 && filled + bytes > most) {
      shards.push([]);
      filled = 0;
    }
    (shards.at(-1) as WriterEntry[]).push(entry);
    filled += bytes;
  }
  return shards;
}
