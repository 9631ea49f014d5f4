/** Linear least squares in the rows of several matrices, solved by products with the Jacobian alone. */

/** Products with the Jacobian a step: what comes behind them are directions that calibration hardly tells apart. */
const mostProducts = 12;

/**
 * x of A·x = b, A symmetric and positive, after {@link mostProducts} steps from 0.
 *
 * @param b becomes the residual
 * @param precondition writes M⁻¹·r, M near A, and resolves to rᵀ·M⁻¹·r
 * @param apply writes A·p
 */
export async function conjugateGradients(
  b: Float32Array,
  precondition: (r: Float32Array, into: Float32Array) => Promise<number>,
  apply: (p: Float32Array, into: Float32Array) => Promise<void>,
): Promise<Float32Array> {
  const [x, p, work] = [new Float32Array(b.length), new Float32Array(b.length), new Float32Array(b.length)];
  for (let round = 0, before = Number.POSITIVE_INFINITY; round < mostProducts; round++) {
    const energy = await precondition(b, work);
    if (energy <= 0) break;
    const share = energy / before;
    for (let at = 0; at < p.length; at++) p[at] = (work[at] as number) + share * (p[at] as number);
    before = energy;
    await apply(p, work);
    const length = energy / dot(p, work);
    for (let at = 0; at < x.length; at++) {
      x[at] = (x[at] as number) + length * (p[at] as number);
      b[at] = (b[at] as number) - length * (work[at] as number);
    }
  }
  return x;
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let at = 0; at < a.length; at++) sum += (a[at] as number) * (b[at] as number);
  return sum;
}
