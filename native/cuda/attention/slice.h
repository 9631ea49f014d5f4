// What one lane of a team has of a row: eight elements, as loaded. They are converted where they are used, so that more of
// them fit in registers. A team of `lanes` reads 8 · lanes neighbouring elements.
#pragma once
#include "kernel/element.h"

namespace moe::cuda {

// Of eight elements, element e of a lane is the row's `column(lane, e)`; those at `size` and beyond are zeros and are not
// read. `whole`: by sixteen bytes; the row is a multiple of 8 elements. Else element by element.
template <typename Element, bool whole, int lanes>
struct Slice {
  float element[8];

  __device__ __forceinline__ static int column(int lane, int e) { return lane + lanes * e; }
  __device__ __forceinline__ void load(const Element *row, int lane, int size) {
#pragma unroll
    for (int e = 0; e < 8; ++e) element[e] = column(lane, e) < size ? widen(ptx::load(row + column(lane, e))) : 0.0f;
  }
  __device__ __forceinline__ float value(int e) const { return element[e]; }
};

template <int lanes>
struct Slice<float, true, lanes> {
  float4 half[2];

  __device__ __forceinline__ static int column(int lane, int e) { return 4 * (lane + lanes * (e / 4)) + e % 4; }
  __device__ __forceinline__ void load(const float *row, int lane, int size) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int first = column(lane, 4 * h);
      half[h] = first < size ? ptx::load(reinterpret_cast<const float4 *>(row + first)) : make_float4(0, 0, 0, 0);
    }
  }
  __device__ __forceinline__ float value(int e) const {
    const float4 &own = half[e / 4];
    return e % 4 == 0 ? own.x : e % 4 == 1 ? own.y : e % 4 == 2 ? own.z : own.w;
  }
};

template <typename Element, int lanes>
struct Slice<Element, true, lanes> {
  uint4 pairs;

  __device__ __forceinline__ static int column(int lane, int e) { return 8 * lane + e; }
  __device__ __forceinline__ void load(const Element *row, int lane, int size) {
    pairs = 8 * lane < size ? ptx::load(reinterpret_cast<const uint4 *>(row + 8 * lane)) : make_uint4(0, 0, 0, 0);
  }
  __device__ __forceinline__ float value(int e) const {
    const uint32_t pair = e / 2 == 0 ? pairs.x : e / 2 == 1 ? pairs.y : e / 2 == 2 ? pairs.z : pairs.w;
    return widen(Element{static_cast<uint16_t>(e % 2 == 0 ? pair & 0xffffu : pair >> 16)});
  }
};

}  // namespace moe::cuda
