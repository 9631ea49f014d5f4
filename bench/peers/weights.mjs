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
export function quantizeRows(values, block, bits) {
  const half = 2 ** (bits - 1);
  const codes = new Uint8Array((values.length * bits) / 8);
  const scales = new Float32Array(values.length / block);
  for (let group = 0; group < scales.length; group++) {
    const [begin, end] = [group * block, (group + 1) * block];
    let most = 0;
    for (let at = begin; at < end; at++) most = Math.max(most, Math.abs(values[at]));
    const scale = most / (half - 1) || 1;
    scales[group] = scale;
    for (let at = begin; at < end; at++) {
      const code = Math.round(values[at] / scale) + half;
      if (bits === 8) codes[at] = code;
      else codes[at >> 1] |= code << (4 * (at & 1));
    }
  }
  return { codes, scales };
}

/** A peer computed something else; its time means nothing. */
export class WrongResults extends Error {}

/** Throws WrongResults where a result of [tokens, outputs] is not x · Wᵀ of the repeated pool, within what 4 bits lose. */
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
    throw new WrongResults(`${name}: wrong results (cosine ${cosine}, size ${size})`);
}
