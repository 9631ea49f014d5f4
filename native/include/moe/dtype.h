// Element types: names and sizes. The only table of them on the native side.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "moe/backend.h"

namespace moe {

struct DtypeInfo {
  std::string_view name;
  int bits;
};

inline constexpr std::array<DtypeInfo, 8> dtypes{{
    {"f32", 32},
    {"f16", 16},
    {"bf16", 16},
    {"f64", 64},
    {"i32", 32},
    {"i8", 8},
    {"u8", 8},
    {"i4", 4},
}};

inline constexpr bool dtype_known(int32_t dtype) { return dtype >= 0 && dtype < static_cast<int32_t>(dtypes.size()); }
inline constexpr bool dtype_float(int32_t dtype) { return dtype == MOE_F32 || dtype == MOE_F16 || dtype == MOE_BF16; }
// Bytes of `count` elements, whole bytes (an odd I4 count is rounded up).
inline constexpr int64_t dtype_bytes(int32_t dtype, int64_t count) {
  return (count * dtypes[static_cast<size_t>(dtype)].bits + 7) / 8;
}

}  // namespace moe
