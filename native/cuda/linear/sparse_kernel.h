// The kernel of both sparse forms where there is no base: y = epilogue(S · rows).
//
// A thread block takes `panel_warps` panels × a row block of up to 8 · blocks rows (sparse_product.h). Warps are added up in
// a fixed order.
#pragma once
#include <algorithm>

#include "host/launcher.h"
#include "kernel/reduce.h"
#include "linear/epilogue.h"
#include "linear/low_rank.h"
#include "linear/quantize.h"
#include "linear/sparse_product.h"

namespace moe::cuda {

inline constexpr int sparse_warps = 8, sparse_threads = sparse_warps * warp_lanes;

// The sums of the warps in shared memory, [warp][8 · blocks rows][16]: a lane puts rows 2q and 2q + 1, and takes neighbours of
// a row from two panels (four where they are gated), so panels begin in different banks.
template <int blocks>
class SparseTotals {
 public:
  static constexpr int bytes = sparse_warps * (8 * blocks * 20 + 32) * 4;

  __device__ __forceinline__ SparseTotals(float *data, int k_warps) : data_(data), k_warps_(k_warps) {}

  __device__ __forceinline__ void put(const float (&total)[blocks][4]) const {
    const int lane = lane_of_thread();
    float *const own = of_warp(warp_of_thread());
#pragma unroll
    for (int n = 0; n < blocks; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        ptx::store_shared(own + (8 * n + 2 * (lane % 4) + i % 2) * row_stride + lane / 4 + 8 * (i / 2), total[n][i]);
  }
  // Of all warps of a panel.
  __device__ __forceinline__ float sum(int panel, int row, int panel_row) const {
    float sum = 0;
    for (int k = 0; k < k_warps_; ++k)
      sum += ptx::load_shared(of_warp(panel * k_warps_ + k) + row * row_stride + panel_row);
    return sum;
  }

 private:
  static constexpr int row_stride = 20, warp_stride = 8 * blocks * row_stride + 32;
  __device__ __forceinline__ float *of_warp(int warp) const {
    const int panel = warp / k_warps_;
    return data_ + warp * warp_stride + panel % 2 * 16 + panel / 2 % 2 * 8;
  }

  float *data_;
  int k_warps_;
};

template <class Operand, int blocks>
__device__ __forceinline__ void multiply_sparse_panels(const Frame *frame, const SparseArguments &a) {
  SharedCutter cut;
  const SharedArray<std::byte> area = cut.take<std::byte>(
      max(sparse_shared_bytes(a.sparse, 8 * blocks, sparse_warps), SparseTotals<blocks>::bytes), 128);
  const RowBlock block = find_row_block(frame, a.linear, blockIdx.y, 8 * blocks);
  if (block.slot < 0) return;
  const int thread = static_cast<int>(threadIdx.x), warp = warp_of_thread();
  const int k_warps = sparse_warps / a.panel_warps, first_panel = static_cast<int>(blockIdx.x) * a.panel_warps;
  const int panel = first_panel + warp / k_warps;
  float total[1][blocks][4]{};
  add_sparse<Operand, 1, blocks, sparse_threads>(frame, a.linear, a.sparse, block, panel, warp % k_warps, k_warps,
                                                 area.data(), total);
  add_low_rank(frame, a.linear, block, panel, warp % k_warps, k_warps, total[0]);
  __syncthreads();  // the rows are no longer read

  const SparseTotals<blocks> totals(reinterpret_cast<float *>(area.data()), k_warps);
  totals.put(total[0]);
  __syncthreads();
  // Neighbours of y by neighbouring lanes: of two panels, or of four where they are gated.
  const Epilogue epilogue(frame, a.linear, block.slot);
  const bool gated = epilogue.gated();
  const int each = gated ? 8 : 16, together = gated ? min(4, a.panel_warps) : 2, width = together * each;
  for (int i = thread; i < a.panel_warps / together * block.count * width; i += sparse_threads) {
    const int column = i % width, row = i / width % block.count;
    const int own = i / width / block.count * together + column / each, panel_row = column % each;
    if (first_panel + own >= a.linear.panels) continue;
    const float sum = totals.sum(own, row, panel_row);
    if (gated) {
      epilogue.store(block.first + row, first_panel + own, panel_row, sum, totals.sum(own, row, panel_row + 8));
    } else {
      epilogue.store_row(block.first + row, first_panel + own, panel_row, sum);
    }
  }
  quantize_finished_rows<sparse_threads>(frame, a.linear, block, blockIdx.y, gridDim.x,
                                         {reinterpret_cast<int32_t *>(area.data()), sparse_warps});
}

// Launches the kernel of an Operand for row blocks of 8, or where there are many rows of 32.
template <class Operand>
void launch_sparse_kernel(const char *name, void (*few)(const Frame *, SparseArguments),
                          void (*many)(const Frame *, SparseArguments), SparseArguments a, const LinearPlan &plan,
                          Launcher &launcher) {
  const LinearArguments &linear = a.linear;
  SparsePart &sparse = a.sparse;
  // A batch-invariant device has one way of summing.
  const auto more_than = [&](int64_t rows) {
    return launcher.device().batch_invariant() ||
           linear.row_capacity > rows * (linear.offsets.present() ? linear.slots : 1);
  };
  const bool by_32 = more_than(8);
  const int block_rows = by_32 ? 32 : 8;
  // Many warps a panel stream its weights fastest, but their units of a window have to fit; with many row blocks what
  // counts is that few thread blocks stage the same rows.
  constexpr int most_buffer_bytes = 40 << 10;
  a.panel_warps = more_than(block_rows) ? sparse_warps : 2;
  plan_windows<Operand>(sparse, block_rows, linear.row_capacity, sparse_warps / a.panel_warps);
  while (a.panel_warps < sparse_warps && sparse.buffer_bytes > most_buffer_bytes) {
    a.panel_warps *= 2;
    plan_windows<Operand>(sparse, block_rows, linear.row_capacity, sparse_warps / a.panel_warps);
  }
  const int area = std::max(sparse_shared_bytes(sparse, block_rows, sparse_warps),
                            by_32 ? SparseTotals<4>::bytes : SparseTotals<1>::bytes);
  const dim3 grid(blocks_for(linear.panels, a.panel_warps), static_cast<unsigned>(most_row_blocks(linear, block_rows)));
  Work work{name, plan.matrix_bytes * grid.y + plan.output_bytes, plan.row_operations * linear.row_capacity};
  work.bytes += sparse_row_bytes(sparse, linear.row_capacity) * grid.x + low_rank_bytes(linear);
  // Each warp looks its slot up.
  work.bytes += int64_t{grid.x} * grid.y * sparse_warps * static_cast<int64_t>(sizeof(PackedSlot));
  launcher.run(work, by_32 ? many : few, {grid, sparse_threads, static_cast<size_t>(area) + 128}, a);
}

}  // namespace moe::cuda
