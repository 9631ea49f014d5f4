// A few neighbours of a row at once, so that a thread asks for sixteen bytes of the operand that decides. Loading and
// widening are apart: kernels first load all that a thread works on, so that the loads are under way together.
#pragma once
#include <initializer_list>
#include <type_traits>

#include "kernel/element.h"

namespace moe::cuda {

// `count` elements as they lie in memory; 16-bit elements use half the words.
template <int count>
struct Packed {
  uint32_t word[count];
};

// `count` elements in f32.
template <int count>
struct Vector {
  float element[count];
};

// `index` is a multiple of `count` (1, 4 or 8), and the data are aligned to as many elements.
template <int count>
__device__ __forceinline__ Packed<count> load_packed(int32_t dtype, const void *data, int64_t index) {
  Packed<count> packed = {};
  const bool wide = dtype == MOE_F32;
  if constexpr (count == 1) {
    packed.word[0] = wide ? ptx::load(static_cast<const uint32_t *>(data) + index)
                          : ptx::load(static_cast<const uint16_t *>(data) + index);
  } else {
    const std::byte *const from = static_cast<const std::byte *>(data) + index * (wide ? 4 : 2);
    const auto fill = [&](int first) {
      const uint4 v = ptx::load(reinterpret_cast<const uint4 *>(from) + first / 4);
      packed.word[first] = v.x, packed.word[first + 1] = v.y, packed.word[first + 2] = v.z,
      packed.word[first + 3] = v.w;
    };
    if (count == 8 || wide) {
      fill(0);
      if (count == 8 && wide) fill(count - 4);
    } else {
      const uint2 v = ptx::load(reinterpret_cast<const uint2 *>(from));
      packed.word[0] = v.x, packed.word[1] = v.y;
    }
  }
  return packed;
}

template <int count>
__device__ __forceinline__ Vector<count> widen(int32_t dtype, const Packed<count> &packed) {
  Vector<count> v;
  const auto half = [&](int i) { return static_cast<uint16_t>(packed.word[i / 2] >> (16 * (i % 2)) & 0xffffu); };
  if (dtype == MOE_F32) {
#pragma unroll
    for (int i = 0; i < count; ++i) v.element[i] = __uint_as_float(packed.word[i]);
  } else if (dtype == MOE_F16) {
#pragma unroll
    for (int i = 0; i < count; ++i) v.element[i] = widen(F16{half(i)});
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) v.element[i] = widen(BF16{half(i)});
  }
  return v;
}

template <int count>
__device__ __forceinline__ Vector<count> load_vector(int32_t dtype, const void *data, int64_t index) {
  return widen(dtype, load_packed<count>(dtype, data, index));
}

template <int count>
__device__ __forceinline__ void store_vector(int32_t dtype, void *data, int64_t index, const Vector<count> &v) {
  if constexpr (count == 1) {
    store_float(dtype, data, index, v.element[0]);
  } else if (count == 8 && dtype != MOE_F32) {
    const auto pair = [&](int i) {
      return dtype == MOE_F16 ? ptx::pack_f16(v.element[i], v.element[i + 1])
                              : ptx::pack_bf16(v.element[i], v.element[i + 1]);
    };
    constexpr int half = count / 2;
    ptx::store(reinterpret_cast<uint4 *>(static_cast<uint16_t *>(data) + index),
               make_uint4(pair(0), pair(half - 2), pair(half), pair(count - 2)));
  } else {
#pragma unroll
    for (int i = 0; i < count; i += 4)
      store_float4(dtype, data, index + i,
                   make_float4(v.element[i], v.element[i + 1], v.element[i + 2], v.element[i + 3]));
  }
}

// The dtype that decides how many neighbours make sixteen bytes: f32 where one of the operands is (−1: absent).
inline int32_t widest_float(std::initializer_list<int32_t> dtypes) {
  int32_t widest = MOE_BF16;
  for (const int32_t dtype : dtypes)
    if (dtype == MOE_F32) widest = dtype;
  return widest;
}

// Calls launch(std::integral_constant<int, count>) with how many neighbours of rows of `width` make sixteen bytes: 8 of
// 16 bits, 4 of 32 bits, 4 where only that divides, 1 where nothing does.
template <typename Launch>
void with_vector(int32_t dtype, int64_t width, Launch &&launch) {
  if (width % 8 == 0 && dtype != MOE_F32) return launch(std::integral_constant<int, 8>{});
  if (width % 4 == 0) return launch(std::integral_constant<int, 4>{});
  launch(std::integral_constant<int, 1>{});
}

// How the threads of a block share rows: `lanes` threads a row, a power of two up to a warp, or whole warps.
struct RowShape {
  int32_t lanes, rows_per_block;
  unsigned threads;
};
// For rows of `vectors`, where a thread should have about `each` of them.
inline RowShape row_shape(int64_t vectors, int64_t each, int32_t most_lanes) {
  constexpr int32_t small_block = 128;
  int32_t lanes = 1;
  while (lanes < 32 && lanes * each < vectors) lanes *= 2;
  while (lanes >= 32 && lanes < most_lanes && lanes * each < vectors) lanes += 32;
  if (lanes > 32) return {lanes, 1, static_cast<unsigned>(lanes)};
  return {lanes, small_block / lanes, small_block};
}

}  // namespace moe::cuda
