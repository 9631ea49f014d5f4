/** Brings the tensors of a checkpoint to a device: matrices as packed weights straight from the mapped file, the rest as tensors. */
import type { NativePiece, NativeWeightForm } from '../addon.ts';
import { type MatrixSource, matrixSource } from '../checkpoint/compressed.ts';
import { tensorBytes } from '../checkpoint/safetensors.ts';
import type { StoredIntegers } from '../checkpoint/stored-matrix.ts';
import type { TensorSource } from '../checkpoint/tensor-source.ts';
import type { Device } from '../device/device.ts';
import { MoeError } from '../errors.ts';
import { hostArray } from '../tensor/dtype.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { GroupSize, WeightFormat } from '../weight/format.ts';
import { Weight } from '../weight/weight.ts';
import type { MlpNames } from './spec.ts';

export interface LoaderOptions {
  /** How a compressed folder keeps its quantized matrices. */
  readonly quantized?: StoredIntegers | null | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told after each weight, with bytes of the files used so far. */
  readonly onBytes?: ((bytes: number) => void) | undefined;
}

/** The two weights of gated MLPs: gate|up [2·width, hidden] and down [hidden, width], a slot for each. */
export interface MlpWeights {
  readonly up: Weight;
  readonly down: Weight;
}

const floatDtypes = { F32: 'f32', F16: 'f16', BF16: 'bf16' } as const;

/** Elements that go to the device in one call. */
const writtenAtOnce = 1 << 20;

/** Owns everything that it loaded until `dispose()`. */
export class WeightLoader {
  readonly device: Device;
  readonly source: TensorSource;
  readonly #options: LoaderOptions;
  readonly #owned: { dispose(): void }[] = [];
  readonly #seen = new Set<string>();
  #fileBytes = 0;
  #bytes = 0;

  constructor(device: Device, source: TensorSource, options: LoaderOptions = {}) {
    this.device = device;
    this.source = source;
    this.#options = options;
  }

  /** Held on the device by what was loaded. */
  get bytes(): number {
    return this.#bytes;
  }

  /** A float tensor in the dtype and shape that the file has. Throws DTYPE_MISMATCH, CHECKPOINT_TENSOR_MISSING. */
  async tensor(name: string): Promise<Tensor> {
    this.#options.signal?.throwIfAborted();
    const entry = this.source.entry(name);
    const dtype = floatDtypes[entry.dtype as keyof typeof floatDtypes];
    if (!dtype) {
      throw new MoeError('DTYPE_MISMATCH', { argument: name, expected: 'F32, F16 or BF16', received: entry.dtype });
    }
    const bytes = this.source.bytesOf(name);
    const tensor = Tensor.empty(this.device, dtype, entry.shape);
    this.#keep(tensor, tensor.bytes, name);
    // Piece by piece, so that an embedding table neither holds up the event loop nor lies in memory twice.
    const piece = hostArray(dtype, Math.min(tensor.length, writtenAtOnce));
    for (let at = 0; at < tensor.length; at += piece.length) {
      this.#options.signal?.throwIfAborted();
      const part = piece.subarray(0, tensor.length - at);
      if ('file' in bytes) bytes.file.read(bytes.offset + at * part.BYTES_PER_ELEMENT, part);
      else part.set((bytes as typeof part).subarray(at, at + part.length));
      await tensor.write(part, { offset: at });
    }
    return tensor;
  }

  /** A tensor of values made here. */
  async constant(values: Float32Array): Promise<Tensor> {
    const tensor = await Tensor.from(this.device, values, { dtype: 'f32', shape: [values.length] });
    this.#keep(tensor, tensor.bytes);
    return tensor;
  }

  /** y = x·Wᵀ with W f32 [rows, columns] that was made here. */
  async matrix(values: Float32Array, rows: number, columns: number): Promise<Weight> {
    const weight = await Weight.from(this.device, { in: columns, out: rows, format: { format: 'f32' } }, values);
    this.#keep(weight, weight.bytes);
    return weight;
  }

  /** y = x·Wᵀ (+ bias) with W [rows, columns]; `format` absent: as stored. */
  async linear(
    name: string,
    rows: number,
    columns: number,
    o: { bias?: boolean; format?: WeightFormat | undefined } = {},
  ): Promise<Weight> {
    const matrix = `${name}.weight`;
    const source = this.#matrix(matrix, rows, columns);
    const pieces: NativePiece[] = [{ part: 'base', slot: 0, row: 0, rows, ...source }];
    const names = [matrix];
    if (o.bias) {
      names.push(`${name}.bias`);
      pieces.push(this.#bias(`${name}.bias`, rows));
    }
    const format = o.format ?? formatOf(source.form);
    return this.#load({ in: columns, out: rows, format, bias: o.bias ?? false }, pieces, names);
  }

  /**
   * Gated MLPs as one bank, a slot for each of `mlps`; `format` absent: as stored (f32 where they are stored differently).
   *
   * @param widths neurons of all, or [mlps] of each
   */
  async mlps(
    mlps: readonly MlpNames[],
    hidden: number,
    widths: number | Int32Array,
    format?: WeightFormat,
  ): Promise<MlpWeights> {
    const up: NativePiece[] = [];
    const down: NativePiece[] = [];
    const upNames: string[] = [];
    const downNames: string[] = [];
    const ragged = typeof widths === 'number' ? undefined : [...widths];
    const widest = ragged ? Math.max(...ragged, 1) : (widths as number);
    for (const [slot, names] of mlps.entries()) {
      const width = ragged?.[slot] ?? widest;
      const [gateName, upName, downName] = [names.gate, names.up, names.down].map((name) => `${name}.weight`) as [
        string,
        string,
        string,
      ];
      up.push({ part: 'base', slot, row: 0, rows: width, ...this.#matrix(gateName, width, hidden) });
      up.push({ part: 'base', slot, row: width, rows: width, ...this.#matrix(upName, width, hidden) });
      down.push({ part: 'base', slot, row: 0, rows: hidden, ...this.#matrix(downName, hidden, width) });
      upNames.push(gateName, upName);
      downNames.push(downName);
    }
    const slots = mlps.length;
    return {
      up: await this.#load(
        {
          in: hidden,
          out: 2 * widest,
          slots,
          gated: true,
          format: format ?? commonFormat(up),
          ...(ragged && { outOf: ragged.map((width) => 2 * width) }),
        },
        up,
        upNames,
      ),
      down: await this.#load(
        { in: widest, out: hidden, slots, format: format ?? commonFormat(down), ...(ragged && { inOf: ragged }) },
        down,
        downNames,
      ),
    };
  }

  /** Frees everything that was loaded, or leaves it to the runs that still use it. */
  dispose(): void {
    for (const owned of this.#owned.splice(0)) owned.dispose();
    this.#bytes = 0;
  }

  /** A bank of pieces that the caller made from the tensors `names`. */
  bank(spec: Weight['spec'], pieces: readonly NativePiece[], names: readonly string[]): Promise<Weight> {
    return this.#load(spec, pieces, names);
  }

  async #load(spec: Weight['spec'], pieces: readonly NativePiece[], names: readonly string[]): Promise<Weight> {
    const { signal } = this.#options;
    const weight = await Weight.load(this.device, spec, pieces, signal ? { signal } : {});
    this.#keep(weight, weight.bytes, ...names);
    return weight;
  }

  #matrix(name: string, rows: number, columns: number): MatrixSource {
    return matrixSource(this.source, name, rows, columns, this.#options.quantized);
  }

  #bias(name: string, rows: number): NativePiece {
    const entry = this.source.entry(name);
    const store = floatDtypes[entry.dtype as keyof typeof floatDtypes];
    if (!store)
      throw new MoeError('DTYPE_MISMATCH', { argument: name, expected: 'F32, F16 or BF16', received: entry.dtype });
    return { part: 'bias', slot: 0, row: 0, rows, form: { store }, values: this.source.bytesOf(name) };
  }

  #keep(owned: { dispose(): void }, bytes: number, ...names: string[]): void {
    this.#owned.push(owned);
    this.#bytes += bytes;
    for (const name of names) {
      for (const part of [name, `${name}_scale`, `${name}_offset`, `${name}_outer`, `${name}_index`]) {
        if (this.#seen.has(part) || !this.source.has(part)) continue;
        this.#seen.add(part);
        const { dtype, shape } = this.source.entry(part);
        this.#fileBytes += tensorBytes(dtype, shape) ?? 0;
      }
    }
    this.#options.onBytes?.(this.#fileBytes);
  }
}

/** The weight format that keeps a stored form as it is. */
function formatOf(form: NativeWeightForm): WeightFormat {
  if (form.store !== 'i8' && form.store !== 'i4') return { format: form.store };
  return {
    format: form.store === 'i8' ? 'int8' : 'int4',
    groupSize: (form.group || 'channel') as GroupSize,
    offset: form.offset ?? false,
    scale: form.outer ?? (form.scale === 'f16' ? 'f16' : 'f32'),
    ...(form.outer && { dual: true }),
  };
}

function commonFormat(pieces: readonly NativePiece[]): WeightFormat {
  const forms = new Set(pieces.map(({ form }) => JSON.stringify(formatOf(form))));
  return forms.size === 1 ? (JSON.parse([...forms][0] as string) as WeightFormat) : { format: 'f32' };
}
