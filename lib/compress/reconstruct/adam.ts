/** Of gradients and of their squares, by which the moving averages forget. */
const [beta1, beta2] = [0.9, 0.999];

interface Moments {
  readonly first: Float32Array;
  readonly second: Float32Array;
  /** Root mean square of the parameters at the start: steps are shares of it. */
  readonly scale: number;
}

/** Adam (Kingma and Ba 2014, algorithm 1) on arrays in place, each in steps of its own size. */
export class Adam {
  readonly #parameters: readonly Float32Array[];
  readonly #moments: readonly Moments[];
  #steps = 0;

  constructor(parameters: readonly Float32Array[]) {
    this.#parameters = parameters;
    this.#moments = parameters.map((values) => ({
      first: new Float32Array(values.length),
      second: new Float32Array(values.length),
      scale: Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / Math.max(1, values.length)),
    }));
  }

  /**
   * @param gradients one for each array and of its length
   * @param rate largest change, as a share of the array's root mean square
   */
  step(gradients: readonly Float32Array[], rate: number): void {
    this.#steps++;
    const [left1, left2] = [1 - beta1 ** this.#steps, 1 - beta2 ** this.#steps];
    for (const [index, { first, second, scale }] of this.#moments.entries()) {
      const [values, gradient] = [this.#parameters[index] as Float32Array, gradients[index] as Float32Array];
      for (let at = 0; at < values.length; at++) {
        const slope = gradient[at] as number;
        const mean = beta1 * (first[at] as number) + (1 - beta1) * slope;
        const square = beta2 * (second[at] as number) + (1 - beta2) * slope * slope;
        first[at] = mean;
        second[at] = square;
        if (square > 0) values[at] = (values[at] as number) - (rate * scale * mean) / left1 / Math.sqrt(square / left2);
      }
    }
  }
}
