/** Linear least squares in the rows of several matrices, solved by products with the Jacobian alone. */
import { addon } from '../../addon.ts';

/** Products with the Jacobian a step: what comes behind them are directions that calibration hardly tells apart. */
const mostProducts = 12;

/** The metric of the ridge and of the preconditioner. */
export interface Metric {
  readonly hidden: number;
  /** [slots], the first row and the end of each. */
  readonly rows: readonly (readonly [number, number])[];
  /** Of each row of gate (where there is one), then of up: ‖its down column‖² · mean slope². */
  readonly weight: Float64Array;
  readonly ridge: readonly number[];
  /** (second moment + ridge)⁻¹ of the inputs of each slot, f64 [hidden, hidden]. */
  readonly inverse: readonly Float64Array[];
}

/**
 * x of A·x = b, A symmetric and positive, after {@link mostProducts} steps from 0.
 *
 * @param b becomes the residual
 * @param apply writes A·p
 */
export async function conjugateGradients(
  b: Float64Array,
  metric: Metric,
  apply: (p: Float64Array, into: Float64Array) => Promise<void>,
): Promise<Float64Array> {
  const [x, p, work] = [new Float64Array(b.length), new Float64Array(b.length), new Float64Array(b.length)];
  for (let round = 0, before = Number.POSITIVE_INFINITY; round < mostProducts; round++) {
    await precondition(b, metric, work);
    const energy = dot(b, work);
    if (energy <= 0) break;
    addScaled(work, energy / before, p);
    p.set(work);
    before = energy;
    await apply(p, work);
    const length = energy / dot(p, work);
    addScaled(x, length, p);
    addScaled(b, -length, work);
  }
  return x;
}

async function precondition(
  r: Float64Array,
  { hidden, rows, weight, inverse }: Metric,
  into: Float64Array,
): Promise<void> {
  const count = rows.at(-1)?.[1] as number;
  for (let first = 0; first < weight.length; first += count) {
    for (const [slot, [begin, end]] of rows.entries()) {
      const own = [(first + begin) * hidden, (first + end) * hidden] as const;
      const solved = into.subarray(...own);
      await addon().product(
        r.subarray(...own),
        inverse[slot] as Float64Array,
        false,
        end - begin,
        hidden,
        hidden,
        solved,
      );
      for (let at = 0; at < solved.length; at++) {
        const scale = weight[first + begin + Math.floor(at / hidden)] as number;
        solved[at] = scale > 0 ? (solved[at] as number) / scale : 0;
      }
    }
  }
}

/** a += scale·b. */
function addScaled(a: Float64Array, scale: number, b: Float64Array): void {
  for (let at = 0; at < a.length; at++) a[at] = (a[at] as number) + scale * (b[at] as number);
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let at = 0; at < a.length; at++) sum += (a[at] as number) * (b[at] as number);
  return sum;
}
