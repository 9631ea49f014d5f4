// s = x + residual; over each run of `width` elements of s:
//   rms:   y = s / sqrt(mean(s²) + epsilon) · weight [+ bias]
//   layer: y = (s − mean) / sqrt(mean((s − mean)²) + epsilon) · weight [+ bias]
// x, residual, y, sum [T, W]; weight, bias [width].
// Rounding: s stays in double for y; y and sum are each rounded once. Bound: bytes of x, residual, y and sum.
#include <cmath>

#include "reference.h"

namespace moe::reference {

namespace {

int64_t run_width(const Node &node) {
  const int64_t width = node.as<moe_norm>().width;
  return width == 0 ? node.input[0].width() : width;
}

}  // namespace

int64_t plan_norm(const Node &node) {
  const Tensor &x = node.input[0], &weight = node.input[1], &bias = node.input[2], &residual = node.input[3];
  const Tensor &y = node.output[0], &sum = node.output[1];
  expect_float(x, "x");
  const auto &attributes = node.as<moe_norm>();
  expect(attributes.kind == MOE_RMS || attributes.kind == MOE_LAYER, "kind", "rms (0) or layer (1)", attributes.kind);
  const int64_t width = run_width(node);
  expect(width > 0 && x.width() % width == 0, "width", "a divisor of " + std::to_string(x.width()), width);
  for (const auto &[tensor, name] : {std::pair{&weight, "weight"}, std::pair{&bias, "bias"}}) {
    if (!*tensor) continue;
    expect_float(*tensor, name);
    expect_count(*tensor, width, name);
  }
  for (const auto &[tensor, name] : {std::pair{&residual, "residual"}, std::pair{&y, "y"}, std::pair{&sum, "sum"}}) {
    if (!*tensor) continue;
    expect_float(*tensor, name);
    expect_count(*tensor, x.elements(), name);
  }
  return checked_multiply(width, 8, "scratch");
}

void run_norm(const Node &node) {
  const Tensor &x = node.input[0], &weight = node.input[1], &bias = node.input[2], &residual = node.input[3];
  const Tensor &y = node.output[0], &sum = node.output[1];
  const auto &attributes = node.as<moe_norm>();
  const int64_t width = run_width(node);
  auto *s = reinterpret_cast<double *>(node.scratch);
  for (int64_t begin = 0; begin < x.elements(); begin += width) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < width; ++i) {
      s[i] = x.at(begin + i) + (residual ? residual.at(begin + i) : 0);
      mean += s[i];
    }
    mean = attributes.kind == MOE_LAYER ? mean / static_cast<double>(width) : 0;
    for (int64_t i = 0; i < width; ++i) square += (s[i] - mean) * (s[i] - mean);
    const double deviation = std::sqrt(square / static_cast<double>(width) + static_cast<double>(attributes.epsilon));
    for (int64_t i = 0; i < width; ++i) {
      if (sum) sum.set(begin + i, s[i]);
      if (y) y.set(begin + i, (s[i] - mean) / deviation * (weight ? weight.at(i) : 1) + (bias ? bias.at(i) : 0));
    }
  }
}

}  // namespace moe::reference
