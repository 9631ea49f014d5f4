// Sums what each of the blocks counts. Planted: the sum is not atomic, and blocks are in no order.
#pragma once
#include "kernel/shared.h"

namespace moe::test {

inline constexpr int counted = 32;

template <bool planted>
__global__ void __launch_bounds__(counted) count_kernel(const float *from, int *sum) {
  const int own = static_cast<int>(threadIdx.x), first = counted * static_cast<int>(blockIdx.x);
  const unsigned large = __ballot_sync(~0u, from[first + own] > 100.0f);
  if (own % 32 != 0) return;
  if constexpr (planted) {
    *sum += __popc(large);
  } else {
    atomicAdd(sum, __popc(large));
  }
}

}  // namespace moe::test
