/** KV caches that calls borrow: each call has one of its own, so calls may run at once. */
import type { Device } from '../device/device.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { type CacheDtype, KvCache, pagesFor } from './kv-cache.ts';

/** Caches that are kept for the next call. */
const keptIdle = 2;

export class CachePool {
  readonly #device: Device;
  readonly #config: DecoderConfig;
  readonly #dtype: CacheDtype;
  readonly #lent = new Set<KvCache>();
  #idle: KvCache[] = [];
  #closed = false;

  constructor(device: Device, config: DecoderConfig, dtype: CacheDtype) {
    this.#device = device;
    this.#config = config;
    this.#dtype = dtype;
  }

  /** Of lent and idle caches. */
  get bytes(): number {
    return [...this.#lent, ...this.#idle].reduce((sum, cache) => sum + cache.bytes, 0);
  }

  /** A cache with room for `tokens` tokens. Throws OUT_OF_MEMORY. */
  borrow(tokens: number): KvCache {
    const fitting = this.#idle.filter(({ pages }) => pages >= pagesFor(tokens));
    const smallest = fitting.reduce<KvCache | undefined>(
      (best, cache) => (best && best.pages <= cache.pages ? best : cache),
      undefined,
    );
    if (smallest) this.#idle = this.#idle.filter((cache) => cache !== smallest);
    const cache = smallest ?? new KvCache(this.#device, this.#config, tokens, this.#dtype);
    this.#lent.add(cache);
    return cache;
  }

  /** Takes a cache back; its sequences have been released. */
  giveBack(cache: KvCache): void {
    this.#lent.delete(cache);
    if (this.#closed) {
      cache.dispose();
      return;
    }
    this.#idle.push(cache);
    if (this.#idle.length > keptIdle) this.#idle.shift()?.dispose();
  }

  /** Frees idle caches now and lent ones when they come back. */
  dispose(): void {
    this.#closed = true;
    for (const cache of this.#idle.splice(0)) cache.dispose();
  }
}
