/** The experts of a layer in a file of their own, for a plan over more layers than fit in memory. */
import { rm } from 'node:fs/promises';
import { SafetensorsFile } from '../checkpoint/safetensors-file.ts';
import { SafetensorsWriter, type WriterEntry } from '../checkpoint/writer.ts';
import { denseMatrices, type Expert, type ExpertLayer, type Matrix, readMatrix } from './experts.ts';

const names = ['gate', 'up', 'down'] as const;

/** A layer whose matrices, dense and in f32, are read when they are asked for. */
export class SpilledLayer {
  readonly layer: ExpertLayer;
  readonly #file: SafetensorsFile;

  private constructor(layer: ExpertLayer, file: SafetensorsFile) {
    this.layer = layer;
    this.#file = file;
  }

  /** Rejects with FILE_UNWRITABLE. */
  static async write(path: string, layer: ExpertLayer): Promise<SpilledLayer> {
    const entries = layer.slots.flatMap((expert, slot) =>
      names.flatMap((name): WriterEntry[] => {
        const matrix = expert[name];
        return matrix ? [{ name: `${slot}.${name}`, dtype: 'F32', shape: [matrix.rows, matrix.columns] }] : [];
      }),
    );
    const writer = await SafetensorsWriter.create(path, entries);
    try {
      for (const slot of layer.slots.keys()) {
        const expert = denseMatrices(layer, slot);
        for (const name of names) {
          const matrix = expert[name];
          if (matrix) await writer.write(`${slot}.${name}`, matrix);
        }
      }
      await writer.finish();
    } finally {
      await writer.discard();
    }
    const file = await SafetensorsFile.open(path);
    const slots = layer.slots.map(({ hidden, width, ...matrices }, slot) => {
      const read = Object.entries<Matrix>(matrices).map(([name, { rows, columns }]) => [
        name,
        readMatrix({ rows, columns }, () => file.readF32Now(`${slot}.${name}`)),
      ]);
      return { hidden, width, ...Object.fromEntries(read) } as Expert;
    });
    const { baseOf: _, ...rest } = layer;
    return new SpilledLayer({ ...rest, slots }, file);
  }

  /** Removes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#file[Symbol.dispose]();
    await rm(this.#file.path, { force: true });
  }
}
