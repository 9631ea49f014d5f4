// Which block of a launch comes last: what needs the work of all blocks is done there, and no block waits for another.
#pragma once
#include <ptx.h>

#include "kernel/frame.h"
#include "kernel/shared.h"

namespace moe::cuda {

// All threads of every block call it once, with a word of shared memory. Orders memory: what other blocks wrote before is seen
// where it is true. The counter is that of grid_barrier.h, whose low 31 bits are 0 between kernels; so they are again.
__device__ __forceinline__ bool is_last_block(const Frame *frame, const SharedArray<int> &answer) {
  constexpr uint32_t count = 0x7fffffffu;
  __syncthreads();
  if (threadIdx.x == 0) {
    auto *const arrivals = const_cast<uint32_t *>(&frame->arrivals);
    const uint32_t blocks = gridDim.x * gridDim.y;
    const bool last = (ptx::add_release(arrivals, 1) & count) == blocks - 1;
    if (last) ptx::add_release(arrivals, 0u - blocks);
    answer[0] = last ? 1 : 0;
  }
  __syncthreads();
  return answer[0] != 0;
}

}  // namespace moe::cuda
