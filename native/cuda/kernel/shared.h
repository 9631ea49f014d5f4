// Dynamic shared memory, cut into arrays. On simt every index is checked; on a GPU an array is a pointer.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace moe::cuda {

template <typename T>
class SharedArray {
 public:
  SharedArray() = default;
  __device__ SharedArray(T *data, int count) : data_(data), count_(count) {}
  __device__ __forceinline__ T &operator[](int index) const {
#if !defined(__CUDACC__)
    if (index < 0 || index >= count_)
      simt::fail("index " + std::to_string(index) + " of a shared array of " + std::to_string(count_));
#endif
    return data_[index];
  }
  __device__ __forceinline__ T *data() const { return data_; }

 private:
  T *data_ = nullptr;
  int count_ = 0;
};

// Hands out the block's dynamic shared memory from its start; each thread makes the same cuts.
class SharedCutter {
 public:
  __device__ __forceinline__ SharedCutter() {
#if defined(__CUDACC__)
    extern __shared__ __align__(1024) std::byte dynamic_shared_memory[];
    next_ = dynamic_shared_memory;
#else
    next_ = simt::current().block->shared;
    end_ = next_ + simt::current().block->shared_bytes;
#endif
  }
  // Aligned to `alignment`; where the cut before it ends out of line, bytes are skipped.
  template <typename T>
  __device__ __forceinline__ SharedArray<T> take(int count, int alignment = 16) {
    const uintptr_t mask = static_cast<uintptr_t>(alignment) - 1;
    next_ += (uintptr_t{0} - reinterpret_cast<uintptr_t>(next_)) &
             mask;  // stays a pointer into shared memory for the compiler
    T *const data = reinterpret_cast<T *>(next_);
    next_ += static_cast<size_t>(count) * sizeof(T);
#if !defined(__CUDACC__)
    if (next_ > end_) simt::fail("shared arrays of more bytes than the launch asked for");
#endif
    return {data, count};
  }

 private:
  std::byte *next_;
#if !defined(__CUDACC__)
  std::byte *end_;
#endif
};

}  // namespace moe::cuda
