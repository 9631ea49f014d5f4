// Rotary positions: angle = f32(positions[t]) · frequencies[i] in f32; cosine and sine of it in double, both times
// scale. Pairs of a head: (i, i + F), or (2i, 2i + 1) where interleaved; elements from 2F on pass through. x, y [T,
// heads·head_dim]. Rounding: the pair in double, rounded once. Bound: bytes of x and y.
#include <cmath>

#include "reference.h"

namespace moe::reference {

int64_t plan_rotate(const Node &node) {
  const Tensor &x = node.input[0], &positions = node.input[1], &frequencies = node.input[2], &y = node.output[0];
  const int64_t heads = node.as<moe_rotate>().heads;
  expect_float(x, "x");
  expect_dtype(positions, MOE_I32, "positions");
  expect_dtype(frequencies, MOE_F32, "frequencies");
  expect_float(y, "y");
  expect_count(positions, x.rows(), "positions");
  expect_count(y, x.elements(), "y");
  expect(heads > 0 && x.width() % heads == 0, "heads", "a divisor of " + std::to_string(x.width()), heads);
  expect(2 * frequencies.elements() <= x.width() / heads, "frequencies", "at most half of head_dim",
         frequencies.elements());
  return 0;
}

void run_rotate(const Node &node) {
  const Tensor &x = node.input[0], &positions = node.input[1], &frequencies = node.input[2], &y = node.output[0];
  const auto &attributes = node.as<moe_rotate>();
  const int64_t count = frequencies.elements(), head = x.width() / attributes.heads;
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t h = 0; h < attributes.heads; ++h) {
      const int64_t begin = t * x.width() + h * head;
      for (int64_t i = 0; i < count; ++i) {
        const float angle = static_cast<float>(positions.integer(t)) * static_cast<float>(frequencies.at(i));
        const double cosine = std::cos(static_cast<double>(angle)) * static_cast<double>(attributes.scale);
        const double sine = std::sin(static_cast<double>(angle)) * static_cast<double>(attributes.scale);
        const int64_t first = begin + (attributes.interleaved ? 2 * i : i),
                      second = attributes.interleaved ? first + 1 : first + count;
        const double a = x.at(first), b = x.at(second);
        y.set(first, a * cosine - b * sine);
        y.set(second, b * cosine + a * sine);
      }
      for (int64_t i = 2 * count; i < head; ++i) y.set(begin + i, x.at(begin + i));
    }
  }
}

}  // namespace moe::reference
