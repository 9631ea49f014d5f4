#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>

#include "moe/half.h"

namespace {

// The compiler's own float16, as the reference. GCC 12 knows it in C++ by the name of each processor.
#if defined(__aarch64__)
using Half = __fp16;
#else
using Half = _Float16;
#endif
uint16_t compiler_f16(float value) { return std::bit_cast<uint16_t>(static_cast<Half>(value)); }

// The nearest bfloat16, ties to the even one, by comparing distances in double.
uint16_t nearest_bf16(float value) {
  const auto down = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
  const auto up = static_cast<uint16_t>(down + 1);
  const double below = std::abs(static_cast<double>(value) - moe::bf16_to_f32(down));
  const double step =
      std::abs(static_cast<double>(std::bit_cast<float>(uint32_t{down} << 16 | 0x8000u)) - moe::bf16_to_f32(down));
  if (below == step) return down % 2 == 0 ? down : up;
  return below < step ? down : up;
}

}  // namespace

TEST_CASE("every f16 widens to the compiler's value and narrows back to its own bits") {
  int wrong = 0;
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = moe::f16_to_f32(half);
    if (std::isnan(wide)) {
      wrong += !std::isnan(static_cast<float>(std::bit_cast<Half>(half))) ||
               !std::isnan(moe::f16_to_f32(moe::f32_to_f16(wide)));
      continue;
    }
    wrong += std::bit_cast<uint32_t>(wide) != std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<Half>(half)));
    wrong += moe::f32_to_f16(wide) != half;
  }
  CHECK(wrong == 0);
}

TEST_CASE("f32 narrows to f16 like the compiler, around every f16 and at random bits") {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float here = moe::f16_to_f32(static_cast<uint16_t>(bits));
    const float next = bits == 0x7bff ? 65536.0f : moe::f16_to_f32(static_cast<uint16_t>(bits + 1));
    const float middle = (here + next) / 2;
    for (const float value : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)})
      for (const float sign : {1.0f, -1.0f}) wrong += moe::f32_to_f16(sign * value) != compiler_f16(sign * value);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 1000000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    wrong += !std::isnan(value) && moe::f32_to_f16(value) != compiler_f16(value);
  }
  CHECK(wrong == 0);
}

TEST_CASE("bf16: exact widening, nearest-even narrowing, NaN stays NaN") {
  int wrong = 0;
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float wide = moe::bf16_to_f32(static_cast<uint16_t>(bits));
    wrong += std::isnan(wide) ? !std::isnan(moe::bf16_to_f32(moe::f32_to_bf16(wide))) : moe::f32_to_bf16(wide) != bits;
  }
  std::mt19937 random(2);
  for (int i = 0; i < 1000000; ++i) {
    uint32_t bits = static_cast<uint32_t>(random());
    if (i % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;  // ties
    const float value = std::bit_cast<float>(bits);
    wrong += std::isfinite(value) && moe::f32_to_bf16(value) != nearest_bf16(value);
  }
  CHECK(wrong == 0);
}
