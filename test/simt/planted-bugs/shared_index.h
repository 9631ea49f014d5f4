// Differences of neighbours, 64 a block; the last has none to its right and keeps its value. Planted: it looks for one.
#pragma once
#include "kernel/shared.h"

namespace moe::test {

inline constexpr int neighbours = 64;

template <bool planted>
__global__ void __launch_bounds__(neighbours) difference_kernel(const float *from, float *to) {
  cuda::SharedCutter cutter;
  const cuda::SharedArray<float> values = cutter.take<float>(neighbours);
  const int own = static_cast<int>(threadIdx.x);
  values[own] = from[own];
  __syncthreads();
  const bool last = !planted && own == neighbours - 1;
  to[own] = last ? values[own] : values[own + 1] - values[own];
}

}  // namespace moe::test
