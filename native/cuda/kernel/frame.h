// Where a run's operands are: kernels are captured once with places, and look addresses and sizes up in a frame that each
// run fills in anew. So one captured graph serves every binding and every number of tokens up to its bound.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace moe::cuda {

inline constexpr int max_symbols = 8;

// In device memory, one a program and queue. `address` is as long as the program has bindings, and one more.
struct Frame {
  static constexpr int most_row_blocks = 8192;
  int64_t size[max_symbols];
  uint32_t finished[most_row_blocks];  // linear/quantize.h; 0 between kernels
  uint32_t arrivals;                   // kernel/grid_barrier.h
  std::byte *address[1];               // 0: the arena; 1 + i: binding i
};

// One operand, or scratch, of a node. By value in kernel parameters.
struct Place {
  static constexpr int32_t absent = -2, fixed = -1;
  int32_t base = absent;  // index of Frame::address; fixed: `offset` is the address itself
  int32_t symbol = -1;
  int64_t offset = 0;  // bytes
  int64_t factor = 0;  // rows = factor · size[symbol], or factor where there is no symbol
  int32_t dtype = -1;

  __host__ __device__ bool present() const { return base != absent; }
};

template <typename T>
__device__ __forceinline__ T *at(const Frame *frame, const Place &place) {
  if (place.base == Place::absent) return nullptr;
  std::byte *const base = place.base == Place::fixed ? nullptr : frame->address[place.base];
  return reinterpret_cast<T *>(reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(place.offset));
}

__device__ __forceinline__ int64_t rows(const Frame *frame, const Place &place) {
  return place.symbol < 0 ? place.factor : place.factor * frame->size[place.symbol];
}

}  // namespace moe::cuda
