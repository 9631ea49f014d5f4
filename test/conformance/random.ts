/** Reproducible test data. */

/** mulberry32: 32 bits of state, uniform in [0, 1). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) / 4294967296;
  };
}

/** [count] values of mean 0 and standard deviation `deviation` (the sum of four uniforms). */
export function normals(random: () => number, count: number, deviation = 1): Float32Array {
  const scale = deviation * Math.sqrt(3);
  return Float32Array.from({ length: count }, () => (random() + random() + random() + random() - 2) * scale);
}

/** [count] whole numbers in [low, high). */
export function integers(random: () => number, count: number, low: number, high: number): Int32Array {
  return Int32Array.from({ length: count }, () => low + Math.floor(random() * (high - low)));
}

/** 0 … count − 1 in a random order. */
export function shuffled(random: () => number, count: number): Int32Array {
  const order = Int32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}
