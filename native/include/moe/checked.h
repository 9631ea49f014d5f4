// Integer arithmetic that throws instead of wrapping: for every size that comes from a file or from JavaScript.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "moe/error.h"

namespace moe {

[[noreturn]] inline void overflow(std::string_view what) {
  throw Error(MOE_INVALID_ARGUMENT, what, "a size below 2^63", "one that overflows");
}

inline int64_t checked_multiply(int64_t a, int64_t b, std::string_view what) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) overflow(what);
  return product;
}

inline int64_t checked_add(int64_t a, int64_t b, std::string_view what) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) overflow(what);
  return sum;
}

inline int64_t ceil_divide(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// Arena and buffer alignment: a cache line, and the widest vector.
inline int64_t align_up(int64_t bytes, int64_t alignment = 64) {
  return checked_multiply(ceil_divide(bytes, alignment), alignment, "bytes");
}

}  // namespace moe
