// norm: s = x + residual; each run of `width` elements becomes s / sqrt(mean(s²) + epsilon) · weight (rms) or
// (s − mean) / sqrt(variance + epsilon) · weight + bias (layer).
//
// Layout: x, residual, y, sum f32 [T, W]; weight, bias f32 [width]; width divides W. s is kept in y until it is
// normalised. Sums run in four lanes-wide accumulators over a run, then one fixed tree.
// Bound: memory, one read of x and residual and one write of y and sum; the second pass over a run finds it in cache.
// Reached: 88 % of the streaming read at 4096 × 2048 with residual (AVX-512, 2 Cascade Lake cores, 2026-11-22;
// docs/performance.md).

namespace moe::cpu::MOE_ISA {

// Σ f(s) over a run.
template <typename Function>
MOE_INLINE float sum_over(const float *s, int64_t n, const Function &f) {
  Vec part[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * width <= n; i += 4 * width)
    for (int u = 0; u < 4; ++u) part[u] = add(part[u], f(load(s + i + u * width), int64_t{width}));
  for (int u = 0; i < n; i += width, ++u) part[u] = add(part[u], f(load_some(s + i, n - i), n - i));
  return sum(add(add(part[0], part[1]), add(part[2], part[3])));
}

MOE_INLINE void norm_run(const moe_norm &a, const float *weight, const float *bias, const float *s, float *y,
                         int64_t n) {
  float mean = 0;
  if (a.kind == MOE_LAYER) mean = sum_over(s, n, [](Vec v, int64_t) { return v; }) / static_cast<float>(n);
  const Vec center = broadcast(mean);
  alignas(64) float ones[width];
  for (int i = 0; i < width; ++i) ones[i] = 1;
  const float squares = sum_over(s, n, [&](Vec v, int64_t left) {
    Vec d = sub(v, center);
    if (left < width) d = mul(d, load_part(ones, left));  // lanes past the run must not count −mean
    return mul(d, d);
  });
  const Vec factor = broadcast(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + a.epsilon));
  for (int64_t i = 0; i < n; i += width) {
    const int64_t left = n - i;
    Vec v = mul(sub(load_some(s + i, left), center), factor);
    if (weight != nullptr) v = mul(v, load_some(weight + i, left));
    if (bias != nullptr) v = add(v, load_some(bias + i, left));
    store_some(y + i, v, left);
  }
}

void norm(const Context &c) {
  moe_norm a = c.attribute<moe_norm>();
  const Operand &x = c.input[0], &residual = c.input[3], &y = c.output[0], &total = c.output[1];
  const float *weight = c.input[1].as<const float>(), *bias = c.input[2].as<const float>();
  const int64_t run = a.width > 0 ? a.width : x.width;
  c.parallel_for(x.rows, x.size() * 4, [&](int64_t t, int) {
    const float *from = x.as<const float>() + t * x.width;
    float *to = y ? y.as<float>() + t * x.width : nullptr;
    if (residual) {
      const float *other = residual.as<const float>() + t * x.width;
      float *kept = total ? total.as<float>() + t * x.width : to;
      if (kept == nullptr) return;
      for (int64_t i = 0; i < x.width; i += width)
        store_some(kept + i, add(load_some(from + i, x.width - i), load_some(other + i, x.width - i)), x.width - i);
      from = kept;
    }
    if (to == nullptr) return;
    for (int64_t i = 0; i < x.width; i += run) norm_run(a, weight, bias, from + i, to + i, run);
  });
}

}  // namespace moe::cpu::MOE_ISA
