// map: elementwise functions of a, or of a and b.
//
// Layout: a, y f32 [T, W]; b f32 [T, W], or [T, 1] for every element of the row; dense.
// Bound: memory for the arithmetic ones, 10 to 30 vector operations an element for the others.
// Reached: 97 % of the streaming read for multiply, 67 % for silu, at 4096 × 2048 (AVX-512, 2 Cascade Lake cores,
// 2026-11-22; docs/performance.md).

namespace moe::cpu::MOE_ISA {

template <typename Function>
MOE_INLINE void map_rows(const Context &c, const Function &f) {
  const Operand &a = c.input[0], &b = c.input[1], &y = c.output[0];
  constexpr int64_t piece = 4096;
  const int64_t pieces = (a.width + piece - 1) / piece;
  const bool spread = b && b.width != a.width;
  c.parallel_for(a.rows * pieces, a.size() * 8, [&](int64_t task, int) {
    const int64_t row = task / pieces, start = task % pieces * piece, end = smaller(start + piece, a.width);
    const float *from = a.as<const float>() + row * a.width;
    const float *other = b ? b.as<const float>() + row * b.width : from;
    float *to = y.as<float>() + row * a.width;
    const Vec same = spread ? broadcast(other[0]) : zero();
    for (int64_t i = start; i < end; i += width) {
      const int64_t left = end - i;
      store_some(to + i, f(load_some(from + i, left), spread ? same : load_some(other + i, left)), left);
    }
  });
}

void map(const Context &c) {
  const moe_map &m = c.attribute<moe_map>();
  const Vec alpha = broadcast(m.alpha), beta = broadcast(m.beta);
  switch (m.function) {
    case MOE_FUNCTION_ADD:
      return map_rows(c, [=](Vec a, Vec b) { return fma(alpha, a, mul(beta, b)); });
    case MOE_FUNCTION_MULTIPLY:
      return map_rows(c, [=](Vec a, Vec b) { return mul(a, b); });
    case MOE_FUNCTION_SCALE:
      return map_rows(c, [=](Vec a, Vec) { return fma(alpha, a, beta); });
    case MOE_FUNCTION_CLAMP:
      return map_rows(c, [=](Vec a, Vec) { return min(beta, max(alpha, a)); });  // NaN stays
    case MOE_FUNCTION_RELU:
      return map_rows(c, [=](Vec a, Vec) { return max(zero(), a); });
    case MOE_FUNCTION_GELU:
      return map_rows(c, [=](Vec a, Vec) { return gelu(a); });
    case MOE_FUNCTION_GELU_TANH:
      return map_rows(c, [=](Vec a, Vec) { return gelu_tanh(a); });
    case MOE_FUNCTION_SILU:
      return map_rows(c, [=](Vec a, Vec) { return silu(a); });
    case MOE_FUNCTION_SIGMOID:
      return map_rows(c, [=](Vec a, Vec) { return sigmoid(a); });
    default:
      return map_rows(c, [=](Vec a, Vec) { return tanh(a); });
  }
}

}  // namespace moe::cpu::MOE_ISA
