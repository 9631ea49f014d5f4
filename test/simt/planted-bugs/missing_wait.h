// Sums rows of 4·32 values, two rows under way at a time. Planted: before the last row the oldest group is waited for, but
// there is no newer one behind it.
#pragma once
#include <ptx.h>

#include "kernel/shared.h"

namespace moe::test {

inline constexpr int lanes = 32;

template <bool planted>
__global__ void __launch_bounds__(lanes) sum_rows_kernel(const float4 *from, float4 *to, int rows) {
  cuda::SharedCutter cutter;
  const cuda::SharedArray<float4> stage = cutter.take<float4>(2 * lanes);
  const int own = static_cast<int>(threadIdx.x);
  const auto ask = [&](int row) {
    cuda::ptx::copy_async(&stage[row % 2 * lanes + own], from + row * lanes + own);
    cuda::ptx::copy_async_commit();
  };
  float4 sum = make_float4(0, 0, 0, 0);
  ask(0);
  for (int row = 0; row < rows; ++row) {
    if (row + 1 < rows) ask(row + 1);
    if (planted || row + 1 < rows) {
      cuda::ptx::copy_async_wait<1>();
    } else {
      cuda::ptx::copy_async_wait<0>();
    }
    const float4 value = stage[row % 2 * lanes + own];
    sum = make_float4(sum.x + value.x, sum.y + value.y, sum.z + value.z, sum.w + value.w);
  }
  to[own] = sum;
}

}  // namespace moe::test
