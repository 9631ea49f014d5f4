/** RMS norm on host arrays, and back. */

/** y = x / √(mean(x²) + ε) · weight over each run of weight.length elements. */
export function rmsNorm(x: Float32Array, weight: Float32Array, epsilon: number): Float32Array {
  const width = weight.length;
  const y = new Float32Array(x.length);
  for (let begin = 0; begin < x.length; begin += width) {
    const scale = scaleOf(x, begin, width, epsilon);
    for (let at = 0; at < width; at++) y[begin + at] = (x[begin + at] as number) * scale * (weight[at] as number);
  }
  return y;
}

/** ∂loss/∂x where `gradient` is ∂loss/∂y of {@link rmsNorm}. */
export function rmsNormGradient(
  x: Float32Array,
  weight: Float32Array,
  epsilon: number,
  gradient: Float32Array,
): Float32Array {
  const width = weight.length;
  const result = new Float32Array(x.length);
  for (let begin = 0; begin < x.length; begin += width) {
    const scale = scaleOf(x, begin, width, epsilon);
    let along = 0;
    for (let at = 0; at < width; at++) {
      along += (weight[at] as number) * (gradient[begin + at] as number) * (x[begin + at] as number);
    }
    const pull = (along * scale * scale) / width;
    for (let at = 0; at < width; at++) {
      const straight = (weight[at] as number) * (gradient[begin + at] as number);
      result[begin + at] = scale * (straight - pull * (x[begin + at] as number));
    }
  }
  return result;
}

function scaleOf(x: Float32Array, begin: number, width: number, epsilon: number): number {
  let square = 0;
  for (let at = begin; at < begin + width; at++) square += (x[at] as number) ** 2;
  return 1 / Math.sqrt(square / width + epsilon);
}
