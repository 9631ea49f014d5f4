// The kernel of both sparse forms: y = epilogue(S · rows).
//
// A thread block takes `panel_warps` panels × a row block of up to 8 · blocks rows. The warps of a panel share out its
// units of columns; each streams its weights from memory, a unit ahead, while the rows lie in shared memory, a window
// of columns at a time, the next window under way. Warps are added up in a fixed order.
//
// An Operand is one warp's panel of weights:
//   form, columns                     of rows; columns of a unit, a multiple of 64
//   row_padding                       bytes behind a staged row, so that the reads of eight rows meet different banks
//   Operand(view, slot, panel)
//   columns_of_slot()                 padded to whole units
//   fetch(unit, Unit &)               loads what can be loaded ahead; nothing past the slot's own
//   multiply(unit, Unit, rows, sums)  adds the unit's products
#pragma once
#include <algorithm>

#include "kernel/reduce.h"
#include "linear/epilogue.h"
#include "linear/low_rank.h"
#include "linear/row_blocks.h"
#include "linear/scales.h"
#include "linear/sparse.h"
#include "linear/weight_fragment.h"

namespace moe::cuda {

inline constexpr int sparse_warps = 8, sparse_threads = sparse_warps * warp_lanes;
inline constexpr int sparse_sum_stride = 20;  // floats of a column of 16 sums: lanes of a warp hit every bank once

__host__ __device__ constexpr int row_element_bytes(RowForm form) { return form == RowForm::int8 ? 1 : 2; }

// Rows of x in shared memory: [plane][8 · blocks rows][window_columns], two windows.
template <RowForm form, int blocks>
class RowWindow {
 public:
  static constexpr int rows_of_block = 8 * blocks;

  __device__ __forceinline__ RowWindow(const Frame *frame, const SparseArguments &a,
                                       const SharedArray<std::byte> &buffer, const SharedArray<int64_t> &source)
      : frame_(frame), a_(a), buffer_(buffer), source_(source) {}

  __device__ __forceinline__ const Rows &rows() const { return a_.linear.segment[0].rows; }

  // By all threads; what lies past the rows' width is zeros.
  __device__ __forceinline__ void stage(int window) const {
    constexpr int piece_columns = 16 / row_element_bytes(form);
    const Rows &rows = this->rows();
    const std::byte *const data = at<std::byte>(frame_, rows.data);
    const int pieces = a_.window_columns / piece_columns;
    for (int plane = 0; plane < rows.planes; ++plane) {
      for (int i = static_cast<int>(threadIdx.x); i < rows_of_block * pieces; i += sparse_threads) {
        const int row = i / pieces, piece = i % pieces;
        const int64_t source = ptx::load_shared(&source_[row]);
        const int64_t column = static_cast<int64_t>(window) * a_.window_columns + piece * piece_columns;
        const bool valid = source >= 0 && column < rows.stride;
        const int64_t element = valid ? (plane * rows.capacity + source) * rows.stride + column : 0;
        ptx::copy_async(const_cast<std::byte *>(place(window, plane, row)) + piece * 16,
                        data + element * row_element_bytes(form), valid);
      }
    }
    ptx::copy_async_commit();
  }

  // 32 columns of 16-bit floats (64 of bytes) from `column` on, of rows 8 · block …, as operands of products.
  __device__ __forceinline__ void load(int plane, int block, int column, uint32_t (&b)[4]) const {
    const int window = column / a_.window_columns, lane = lane_of_thread();
    const std::byte *const row = place(window, plane, 8 * block + lane % 8);
    ptx::ldmatrix_x4(b, row + (column - window * a_.window_columns) * row_element_bytes(form) + lane / 8 * 16);
  }
  // 8 bytes of row 8 · block + g.
  __device__ __forceinline__ uint2 load_bytes(int block, int column) const {
    const int window = column / a_.window_columns;
    return ptx::load_shared(reinterpret_cast<const uint2 *>(place(window, 0, 8 * block + lane_of_thread() / 4) +
                                                            column - window * a_.window_columns));
  }
  // Step of a row for one of its blocks.
  __device__ __forceinline__ float step(int row, int block) const {
    return block_step(frame_, rows(), ptx::load_shared(&source_[row]), block);
  }

 private:
  __device__ __forceinline__ const std::byte *place(int window, int plane, int row) const {
    return buffer_.data() + window % 2 * a_.buffer_bytes + (plane * rows_of_block + row) * a_.window_stride;
  }

  const Frame *frame_;
  const SparseArguments &a_;
  const SharedArray<std::byte> &buffer_;
  const SharedArray<int64_t> &source_;
};

template <RowForm form, int blocks>
struct SparseSums {
  float total[blocks][4]{};
  typename ProductOf<form>::Sum product[blocks][4]{};

  // What has come together in `product` of group `group`, scaled for rows g and g + 8; `shift`: bits by which codes
  // were too large.
  __device__ __forceinline__ void end_group(const RowWindow<form, blocks> &rows, int group, float low, float high,
                                            int shift = 0) {
    const int q = lane_of_thread() % 4;
#pragma unroll
    for (int n = 0; n < blocks; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float step = 1;
        if constexpr (form == RowForm::int8) step = rows.step(8 * n + 2 * q + c, group);
        total[n][c] += step * (low * whole(product[n][c], shift));
        total[n][c + 2] += step * (high * whole(product[n][c + 2], shift));
        product[n][c] = product[n][c + 2] = 0;
      }
    }
  }

 private:
  __device__ __forceinline__ static float whole(float sum, int) { return sum; }
  __device__ __forceinline__ static float whole(int32_t sum, int shift) { return static_cast<float>(sum >> shift); }
};

template <class Operand, int blocks>
__device__ __forceinline__ void multiply_sparse_panels(const Frame *frame, const SparseArguments &a) {
  constexpr RowForm form = Operand::form;
  constexpr int sum_bytes = sparse_warps * 8 * blocks * sparse_sum_stride * 4;
  SharedCutter cut;
  const SharedArray<int64_t> source = cut.take<int64_t>(8 * blocks);
  const SharedArray<std::byte> buffer = cut.take<std::byte>(max(2 * a.buffer_bytes, sum_bytes), 128);
  const RowBlock block = find_row_block(frame, a.linear, blockIdx.y, 8 * blocks);
  if (block.slot < 0) return;
  const int thread = static_cast<int>(threadIdx.x), lane = lane_of_thread(), warp = warp_of_thread();
  if (thread < 8 * blocks)
    source[thread] =
        thread < block.count ? source_row(frame, a.linear, a.linear.segment[0], block.first + thread) : int64_t{-1};
  __syncthreads();

  const int k_warps = sparse_warps / a.panel_warps, first_panel = static_cast<int>(blockIdx.x) * a.panel_warps;
  const RowWindow<form, blocks> rows(frame, a, buffer, source);
  const Operand operand(a.weight, block.slot, first_panel + warp / k_warps);
  SparseSums<form, blocks> sums;
  const int columns = operand.columns_of_slot(), window_units = a.window_columns / Operand::columns;
  typename Operand::Unit next;
  int unit = warp % k_warps;
  operand.fetch(unit, next);
  if (columns > 0) rows.stage(0);
  for (int window = 0; window * a.window_columns < columns; ++window) {
    ptx::copy_async_wait<0>();
    __syncthreads();
    if ((window + 1) * a.window_columns < columns) rows.stage(window + 1);
    for (; unit < (window + 1) * window_units && unit * Operand::columns < columns; unit += k_warps) {
      const typename Operand::Unit now = next;
      operand.fetch(unit + k_warps, next);
      operand.multiply(unit, now, rows, sums);
    }
  }
  add_low_rank(frame, a.linear, block, first_panel + warp / k_warps, warp % k_warps, k_warps, sums.total);
  __syncthreads();  // the rows are no longer read

  float *const own = reinterpret_cast<float *>(buffer.data()) + warp * 8 * blocks * sparse_sum_stride;
#pragma unroll
  for (int n = 0; n < blocks; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      ptx::store_shared(own + (8 * n + 2 * (lane % 4) + i % 2) * sparse_sum_stride + lane / 4 + 8 * (i / 2),
                        sums.total[n][i]);
  __syncthreads();
  const Epilogue epilogue(frame, a.linear, block.slot);
  for (int i = thread; i < a.panel_warps * block.count * 8; i += sparse_threads) {
    const int g = i % 8, row = i / 8 % block.count, panel = i / 8 / block.count;
    if (first_panel + panel >= a.linear.panels) continue;
    float low = 0, high = 0;
    for (int k = 0; k < k_warps; ++k) {
      const float *const from = reinterpret_cast<const float *>(buffer.data()) +
                                ((panel * k_warps + k) * 8 * blocks + row) * sparse_sum_stride + g;
      low += ptx::load_shared(from);
      high += ptx::load_shared(from + 8);
    }
    epilogue.store(block.first + row, first_panel + panel, g, low, high);
  }
}

// Whether rows are as good as always in whole row blocks. A batch-invariant device has one way of summing.
template <int blocks>
bool many_rows(const LinearArguments &a, const Device &device) {
  return device.batch_invariant() || a.row_capacity > 8 * blocks * int64_t{a.offsets.present() ? a.slots : 1};
}

// Launches `kernel` of an Operand.
template <class Operand, int blocks>
void launch_sparse_kernel(const char *name, void (*kernel)(const Frame *, SparseArguments), SparseArguments a,
                          const LinearPlan &plan, Launcher &launcher) {
  constexpr RowForm form = Operand::form;
  constexpr int unit = Operand::columns;
  constexpr int most_buffer_bytes = 40 << 10;
  const Rows &rows = a.linear.segment[0].rows;
  const auto stride_of = [](int columns) { return columns * row_element_bytes(form) + Operand::row_padding; };
  const auto bytes_of = [&](int columns) { return rows.planes * 8 * blocks * stride_of(columns); };
  // Many warps a panel stream its weights fastest, but their units of a window have to fit; with many row blocks what
  // counts is that few thread blocks stage the same rows.
  a.panel_warps = many_rows<blocks>(a.linear, launcher.device()) ? sparse_warps : 2;
  while (a.panel_warps < sparse_warps && bytes_of(unit * sparse_warps / a.panel_warps) > most_buffer_bytes)
    a.panel_warps *= 2;
  const int turn = unit * sparse_warps / a.panel_warps;
  a.window_columns = turn;
  while (a.window_columns < a.weight.columns && bytes_of(a.window_columns + turn) <= most_buffer_bytes)
    a.window_columns += turn;
  a.window_stride = stride_of(a.window_columns);
  a.buffer_bytes = bytes_of(a.window_columns);
  const int sums = sparse_warps * 8 * blocks * sparse_sum_stride * 4;
  const size_t shared = 8 * blocks * sizeof(int64_t) + 128 + static_cast<size_t>(std::max(2 * a.buffer_bytes, sums));
  const dim3 grid(blocks_for(a.linear.panels, a.panel_warps),
                  static_cast<unsigned>(most_row_blocks(a.linear, 8 * blocks)));
  const int64_t row_bytes = rows.stride * rows.planes * row_element_bytes(form);
  Work work{name, plan.matrix_bytes * grid.y + plan.output_bytes, plan.row_operations * a.linear.row_capacity};
  work.bytes += a.linear.row_capacity * row_bytes * grid.x + low_rank_bytes(a.linear);
  launcher.run(work, kernel, {grid, sparse_threads, shared}, a);
}

}  // namespace moe::cuda
