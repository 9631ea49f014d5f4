// Checks of arguments that every function here shares.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "moe/error.h"

namespace moe::numerics {

inline void require_size(int64_t value, int64_t least, int64_t most, std::string_view argument) {
  if (value < least || value > most)
    throw Error(MOE_INVALID_ARGUMENT, argument, std::to_string(least) + " … " + std::to_string(most),
                std::to_string(value));
}

template <typename Element>
void require_finite(const Element *values, int64_t count, std::string_view argument) {
  // x − x is 0 for finite x alone; a sum of them tells without a branch an element.
  constexpr int64_t lanes = 8;
  Element sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += values[i + lane] - values[i + lane];
  for (; i < count; ++i) sums[0] += values[i] - values[i];
  Element all = 0;
  for (const Element sum : sums) all += sum;
  if (all == 0) return;
  for (i = 0; i < count; ++i)
    if (!std::isfinite(values[i]))
      throw Error(MOE_INVALID_ARGUMENT, argument, "finite values",
                  std::to_string(values[i]) + " at [" + std::to_string(i) + "]");
}

inline void require_ridge(double ridge) {
  if (!(ridge >= 0) || !std::isfinite(ridge))
    throw Error(MOE_INVALID_ARGUMENT, "ridge", "a finite number ≥ 0", std::to_string(ridge));
}

}  // namespace moe::numerics
