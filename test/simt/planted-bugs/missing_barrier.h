// Reverses the 64 values of each block through shared memory. Planted: nothing orders the writes before the reads.
#pragma once
#include "kernel/shared.h"

namespace moe::test {

inline constexpr int reversed = 64;

template <bool planted>
__global__ void __launch_bounds__(reversed) reverse_kernel(const float *from, float *to) {
  cuda::SharedCutter cutter;
  const cuda::SharedArray<float> values = cutter.take<float>(reversed);
  const int own = static_cast<int>(threadIdx.x), first = reversed * static_cast<int>(blockIdx.x);
  values[own] = from[first + own];
  if constexpr (!planted) __syncthreads();
  to[first + own] = values[reversed - 1 - own];
}

}  // namespace moe::test
