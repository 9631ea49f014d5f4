// Who does what in a launch: one block, or all blocks of a cooperative launch.
#pragma once
#include "kernel/grid_barrier.h"
#include "kernel/reduce.h"

namespace moe::cuda {

struct TokenRange {
  int64_t begin, end;
};

template <bool whole_grid>
struct Team {
  const Frame *frame;

  __device__ __forceinline__ int blocks() const { return whole_grid ? static_cast<int>(gridDim.x) : 1; }
  __device__ __forceinline__ int block() const { return whole_grid ? static_cast<int>(blockIdx.x) : 0; }
  __device__ __forceinline__ static int block_warps() { return static_cast<int>(blockDim.x) / 32; }
  __device__ __forceinline__ int warps() const { return blocks() * block_warps(); }
  __device__ __forceinline__ int warp() const { return block() * block_warps() + warp_of_thread(); }
  // All threads of all blocks; orders memory.
  __device__ __forceinline__ void meet() const {
    if constexpr (whole_grid) {
      grid_barrier(frame);
    } else {
      __syncthreads();
    }
  }
  __device__ __forceinline__ int64_t tokens_of_block(int64_t tokens) const {
    return (tokens + warps() - 1) / warps() * block_warps();
  }
  // Each warp has tokens in a row, and a later warp later ones: so an order by warp is an order by token.
  __device__ __forceinline__ TokenRange tokens_of_warp(int64_t tokens) const {
    const int64_t each = (tokens + warps() - 1) / warps(), begin = min(tokens, each * warp());
    return {begin, min(tokens, begin + each)};
  }
};

}  // namespace moe::cuda
