/** The paged KV cache of one call: a state of keys and one of values for each layer, pages handed out to sequences. */
import type { Device } from '../device/device.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { DecoderConfig } from './decoder-config.ts';

/** Of cached keys and values: halves take half of the memory, and of what decoding reads, int8 a little over a quarter. */
export const cacheDtypes = ['f32', 'f16', 'bf16', 'int8'] as const;
export type CacheDtype = (typeof cacheDtypes)[number];

/** Tokens of a page. */
export const pageSize = 16;

/** What a state of keys or of values holds: int8 keeps an f32 step a head behind the codes of each token. */
export function cacheForm(cache: CacheDtype, kvHeads: number, headDim: number): { dtype: StateDtype; width: number } {
  if (cache === 'int8') return { dtype: 'i8', width: kvHeads * (headDim + 4) };
  return { dtype: cache, width: kvHeads * headDim };
}
type StateDtype = Exclude<CacheDtype, 'int8'> | 'i8';

export function pagesFor(tokens: number): number {
  return Math.ceil(tokens / pageSize);
}

/** One text in the cache. */
export interface Sequence {
  /** Pages that hold its keys and values, in order. */
  readonly pages: number[];
  /** Tokens whose keys and values are in the cache. */
  length: number;
}

/** Owned by one call at a time; not safe to share between calls that run at once. */
export class KvCache {
  readonly #device: Device;
  readonly #config: DecoderConfig;
  readonly #dtype: CacheDtype;
  #states: Record<string, Tensor<StateDtype>> = {};
  #free: number[] = [];
  #pages = 0;

  constructor(device: Device, config: DecoderConfig, tokens: number, dtype: CacheDtype = 'f32') {
    this.#device = device;
    this.#config = config;
    this.#dtype = dtype;
    this.#pages = Math.max(1, pagesFor(tokens));
    this.#states = this.#allocate(this.#pages);
    this.#free = Array.from({ length: this.#pages }, (_, index) => this.#pages - 1 - index);
  }

  /** Pages of each state. */
  get pages(): number {
    return this.#pages;
  }

  get bytes(): number {
    return Object.values(this.#states).reduce((sum, tensor) => sum + tensor.bytes, 0);
  }

  /** `keys.<layer>` and `values.<layer>`, [pages, 16, width of cacheForm], to bind at a run. */
  get states(): Readonly<Record<string, Tensor<StateDtype>>> {
    return this.#states;
  }

  sequence(): Sequence {
    return { pages: [], length: 0 };
  }

  /** Gives the sequence pages for `tokens` tokens in all; grows the cache where it is full. Throws OUT_OF_MEMORY. */
  async reserve(sequence: Sequence, tokens: number): Promise<void> {
    const needed = pagesFor(tokens) - sequence.pages.length;
    if (needed > this.#free.length)
      await this.#grow(Math.max(2 * this.#pages, this.#pages + needed - this.#free.length));
    for (let i = 0; i < needed; i++) sequence.pages.push(this.#free.pop() as number);
  }

  /** Takes the sequence's pages back; it is empty afterwards. */
  release(sequence: Sequence): void {
    this.#free.push(...sequence.pages.splice(0).reverse());
    sequence.length = 0;
  }

  dispose(): void {
    for (const tensor of Object.values(this.#states)) tensor.dispose();
    this.#states = {};
    this.#free = [];
    this.#pages = 0;
  }

  #allocate(pages: number): Record<string, Tensor<StateDtype>> {
    const { kvHeads, headDim } = this.#config.attention;
    const { dtype, width } = cacheForm(this.#dtype, kvHeads, headDim);
    const states: Record<string, Tensor<StateDtype>> = {};
    try {
      for (let layer = 0; layer < this.#config.layers.length; layer++) {
        for (const name of [`keys.${layer}`, `values.${layer}`]) {
          states[name] = Tensor.empty(this.#device, dtype, [pages, pageSize, width]);
        }
      }
    } catch (error) {
      for (const tensor of Object.values(states)) tensor.dispose();
      throw error;
    }
    return states;
  }

  async #grow(pages: number): Promise<void> {
    const states = this.#allocate(pages);
    for (const [name, from] of Object.entries(this.#states)) {
      await (states[name] as Tensor<StateDtype>).write(await from.read());
      from.dispose();
    }
    this.#states = states;
    const added = Array.from({ length: pages - this.#pages }, (_, index) => pages - 1 - index);
    this.#free = [...added, ...this.#free];
    this.#pages = pages;
  }
}
