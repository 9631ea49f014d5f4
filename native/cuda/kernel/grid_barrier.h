// A barrier of all blocks of a cooperative launch.
#pragma once
#include <ptx.h>

#include "kernel/frame.h"

namespace moe::cuda {

// Orders memory. The counter is the frame's: one a program and queue, whose kernels run one after another. Its low 31 bits
// count blocks and are 0 again after each barrier, whatever the number of blocks; the top bit is the barrier's parity. So
// nothing has to be reset between nodes, and each run starts from 0 (frame.cu).
__device__ __forceinline__ void grid_barrier(const Frame *frame) {
  constexpr uint32_t parity = 0x80000000u;
  __syncthreads();
  if (threadIdx.x == 0) {
    auto *const arrivals = const_cast<uint32_t *>(&frame->arrivals);
    const uint32_t before = ptx::add_release(arrivals, blockIdx.x == 0 ? parity - (gridDim.x - 1) : 1u);
    while (((ptx::load_acquire(arrivals) ^ before) & parity) == 0) {
    }
  }
  __syncthreads();
}

}  // namespace moe::cuda
