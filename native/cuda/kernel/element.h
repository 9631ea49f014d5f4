// Elements in memory as f32 in registers: one at a time, or sixteen bytes at a time.
#pragma once
#include <ptx.h>

#include "moe/backend.h"

namespace moe::cuda {

// The bits of a 16-bit float as a type of its own, so that kernels can be templates over what they load. Seen from outside as
// they are: a hidden type would hide the names of those kernels.
struct __attribute__((visibility("default"))) F16 {
  uint16_t bits;
};
struct __attribute__((visibility("default"))) BF16 {
  uint16_t bits;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(F16 value) { return ptx::f16_to_f32(value.bits); }
__device__ __forceinline__ float widen(BF16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }

template <typename T>
__device__ __forceinline__ T narrow(float value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ F16 narrow<F16>(float value) {
  return {static_cast<uint16_t>(ptx::pack_f16(value, 0) & 0xffffu)};
}
template <>
__device__ __forceinline__ BF16 narrow<BF16>(float value) {
  return {static_cast<uint16_t>(ptx::pack_bf16(value, 0) & 0xffffu)};
}

// One element of a float dtype that is only known at run time; the branch is the same for the whole grid.
__device__ __forceinline__ float load_float(int32_t dtype, const void *data, int64_t index) {
  if (dtype == MOE_F32) return ptx::load(static_cast<const float *>(data) + index);
  if (dtype == MOE_F16) return widen(ptx::load(static_cast<const F16 *>(data) + index));
  return widen(ptx::load(static_cast<const BF16 *>(data) + index));
}
__device__ __forceinline__ void store_float(int32_t dtype, void *data, int64_t index, float value) {
  if (dtype == MOE_F32) {
    ptx::store(static_cast<float *>(data) + index, value);
  } else if (dtype == MOE_F16) {
    ptx::store(static_cast<F16 *>(data) + index, narrow<F16>(value));
  } else {
    ptx::store(static_cast<BF16 *>(data) + index, narrow<BF16>(value));
  }
}

// Four neighbours; `index` is a multiple of 4 and the data are aligned to four elements.
__device__ __forceinline__ float4 load_float4(int32_t dtype, const void *data, int64_t index) {
  if (dtype == MOE_F32) return ptx::load(reinterpret_cast<const float4 *>(static_cast<const float *>(data) + index));
  const uint2 pairs = ptx::load(reinterpret_cast<const uint2 *>(static_cast<const uint16_t *>(data) + index));
  const auto half = [&](uint32_t bits) {
    const uint16_t low = static_cast<uint16_t>(bits & 0xffffu);
    return dtype == MOE_F16 ? widen(F16{low}) : widen(BF16{low});
  };
  return make_float4(half(pairs.x), half(pairs.x >> 16), half(pairs.y), half(pairs.y >> 16));
}
__device__ __forceinline__ void store_float4(int32_t dtype, void *data, int64_t index, float4 value) {
  if (dtype == MOE_F32) {
    ptx::store(reinterpret_cast<float4 *>(static_cast<float *>(data) + index), value);
    return;
  }
  const bool f16 = dtype == MOE_F16;
  const uint2 pairs = make_uint2(f16 ? ptx::pack_f16(value.x, value.y) : ptx::pack_bf16(value.x, value.y),
                                 f16 ? ptx::pack_f16(value.z, value.w) : ptx::pack_bf16(value.z, value.w));
  ptx::store(reinterpret_cast<uint2 *>(static_cast<uint16_t *>(data) + index), pairs);
}

}  // namespace moe::cuda
