// Which rows a block of a linear kernel works on: up to `size` neighbours of one slot. The list of such row blocks is never
// stored; each block finds its own entry from the routing's offsets.
#pragma once
#include "kernel/reduce.h"
#include "linear/arguments.h"
#include "moe/checked.h"
#include "ptx.h"

namespace moe::cuda {

struct RowBlock {
  int32_t slot;   // −1: no such block in this run
  int64_t first;  // row of the routing, or of x
  int32_t count;  // 1 … size
};

// Row blocks at the most: each slot that has rows may leave one block partly filled.
inline int64_t most_row_blocks(const LinearArguments &a, int64_t size) {
  if (!a.offsets.present()) return ceil_divide(a.row_capacity, size);
  const int64_t used = a.row_capacity < a.slots ? a.row_capacity : a.slots;
  return (a.row_capacity - used) / size + used;
}

// All lanes of a warp ask for the same `index` and get the same answer.
__device__ __forceinline__ RowBlock find_row_block(const Frame *frame, const LinearArguments &a, int64_t index,
                                                   int size) {
  const int64_t all = rows(frame, a.y);
  if (!a.offsets.present()) {
    const int64_t first = index * size;
    const int64_t left = all - first;
    return {left > 0 ? 0 : -1, first, static_cast<int32_t>(left < size ? left : size)};
  }
  const int32_t *const offsets = at<int32_t>(frame, a.offsets);
  int64_t before = 0;  // row blocks of the slots already looked at
  for (int base = 0; base < a.slots; base += 32) {
    const int slot = base + lane_of_thread();
    int64_t begin = 0, end = 0;
    if (slot < a.slots) {
      begin = ptx::load(offsets + slot);
      end = ptx::load(offsets + slot + 1);
      begin = begin < 0 ? 0 : begin > all ? all : begin;  // broken offsets never reach past y
      end = end < begin ? begin : end > all ? all : end;
    }
    const int own = static_cast<int>((end - begin + size - 1) / size);
    const int64_t first = before + warp_exclusive_sum(own);
    const uint32_t mine = __ballot_sync(whole_warp, index >= first && index < first + own);
    if (mine != 0) {
      const int source = __ffs(static_cast<int>(mine)) - 1;
      const int64_t row = begin + (index - first) * size;
      const int64_t left = end - row;
      return {base + source, __shfl_sync(whole_warp, row, source),
              __shfl_sync(whole_warp, static_cast<int32_t>(left < size ? left : size), source)};
    }
    before = __shfl_sync(whole_warp, first + own, 31);
  }
  return {-1, 0, 0};
}

// The row of `segment.rows` that row `row` of the routing reads; −1: a token out of range, whose row is zeros.
__device__ __forceinline__ int64_t source_row(const Frame *frame, const LinearArguments &a, const Segment &segment,
                                              int64_t row) {
  if (!segment.gathered) return row;
  const int64_t token = ptx::load(at<int32_t>(frame, a.token_of) + row);
  return token >= 0 && token < rows(frame, segment.rows.data) ? token : -1;
}

}  // namespace moe::cuda
