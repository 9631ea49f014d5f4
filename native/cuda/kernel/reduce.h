// Sums, maxima and scans of a warp and of a block, in an order that does not depend on timing.
#pragma once
#include <cuda_runtime.h>

#include "kernel/shared.h"

namespace moe::cuda {

inline constexpr uint32_t whole_warp = 0xffffffffu;

__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x & 31u); }
__device__ __forceinline__ int warp_of_thread() { return static_cast<int>(threadIdx.x >> 5); }

struct Add {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Largest {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Every lane gets the result. `width`: lanes that belong together, a power of two.
template <typename T, typename Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine, int width = 32) {
  for (int step = width / 2; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(whole_warp, value, step));
  return value;
}

// Every thread of the block gets the result; `partial` holds one T a warp. Threads in one dimension, whole warps.
template <typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, Combine combine, const SharedArray<T> &partial) {
  value = warp_reduce(value, combine);
  const int warps = static_cast<int>(blockDim.x) / 32;
  __syncthreads();  // whoever still reads the last result
  if (lane_of_thread() == 0) partial[warp_of_thread()] = value;
  __syncthreads();
  T result = partial[0];
  for (int warp = 1; warp < warps; ++warp) result = combine(result, partial[warp]);
  return result;
}

// Sum of the values of the lanes below this one.
__device__ __forceinline__ int warp_exclusive_sum(int value) {
  int sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(whole_warp, sum, static_cast<unsigned>(step));
    if (lane_of_thread() >= step) sum += other;
  }
  return sum - value;
}

}  // namespace moe::cuda
