// Random matrices for peers. Speed does not depend on the values, so a few rows stand for all of them.
export const poolRows = 32;

/** f32 [poolRows, columns]. */
export function rowPool(columns) {
  return Float32Array.from({ length: poolRows * columns }, () => Math.random() - 0.5);
}

/** `rows` rows of `bytes` of the pool, over and over. */
export function repeatRows(pool, rows) {
  const all = new pool.constructor((pool.length / poolRows) * rows);
  for (let at = 0; at < all.length; at += pool.length) all.set(pool.subarray(0, all.length - at), at);
  return all;
}

/** Symmetric codes of `bits` bits with 2^(bits − 1) for 0, two a byte where they are 4 (the low half first), and a scale a block. */
export function quantizeRows(pool, block, bits) {
  const half = 2 ** (bits - 1);
  const codes = new Uint8Array(pool.length);
  const scales = new Float32Array(pool.length / block);
  for (let group = 0; group < scales.length; group++) {
    const values = pool.subarray(group * block, (group + 1) * block);
    const scale = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / (half - 1) || 1;
    scales[group] = scale;
    for (const [at, value] of values.entries()) codes[group * block + at] = Math.round(value / scale) + half;
  }
  if (bits === 8) return { codes, scales };
  return {
    codes: Uint8Array.from({ length: codes.length / 2 }, (_, at) => codes[2 * at] | (codes[2 * at + 1] << 4)),
    scales,
  };
}

/** Throws where a result of [tokens, outputs] is not x · Wᵀ of the repeated pool, within what 4 bits lose. */
export function checkDense(name, x, y, pool, columns, outputs) {
  let [product, wanted, got] = [0, 0, 0];
  for (let row = 0; row < Math.min(outputs, poolRows); row++) {
    let sum = 0;
    for (let at = 0; at < columns; at++) sum += x[at] * pool[row * columns + at];
    product += sum * y[row];
    wanted += sum * sum;
    got += y[row] * y[row];
  }
  const cosine = product / Math.sqrt(wanted * got);
  const size = Math.sqrt(got / wanted);
  if (!(cosine > 0.97 && size > 0.9 && size < 1.1))
    throw new Error(`${name}: wrong results (cosine ${cosine}, size ${size})`);
}
