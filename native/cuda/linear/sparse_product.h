// S · rows in the registers of a kernel that sums a panel: the products of both sparse forms.
//
// The warps of a panel share out its units of columns; each streams its weights from memory, a unit ahead, while the rows
// lie in shared memory, a window of columns at a time, the next window under way.
//
// An Operand is one warp's panel of weights:
//   form, columns                              of rows; columns of a unit, a multiple of 64
//   row_padding                                bytes behind a staged row, so that the reads of eight rows meet different
//                                              banks
//   whole_rows                                 whether it multiplies inputs that are not kept, by zero: then `special` says
//                                              that the rows may have infinities and NaN there
//   Operand(view, slot, panel, values)         values: 2 · value_bytes of shared memory of the warp
//   columns_of_slot()                          padded to whole units
//   fetch(unit, turn, Unit &)                  loads what can be loaded ahead; nothing past the slot's own; turn: 0, 1, 0 …
//   multiply(unit, Unit, rows, sums, special)  adds the unit's products
#pragma once
#include "linear/sparse_window.h"

namespace moe::cuda {

__host__ __device__ constexpr int sparse_source_bytes(int rows) { return (4 * rows + 15) / 16 * 16; }
// Of shared memory, for row blocks of up to `rows`.
__host__ __device__ inline int sparse_shared_bytes(const SparsePart &sparse, int rows, int warps) {
  return sparse_source_bytes(rows) + 2 * sparse.buffer_bytes + 2 * warps * sparse.weight.value_bytes;
}

// Of the rows, as the blocks of a run of panels read them once.
inline int64_t sparse_row_bytes(const SparsePart &sparse, int64_t row_capacity) {
  const Rows &rows = sparse.segment.rows;
  return row_capacity * rows.stride * rows.planes * row_element_bytes(rows.form);
}

// How rows are staged where `k_warps` warps share a panel's columns and row blocks are of up to `rows`: whole turns of the
// warps, at least one.
template <class Operand>
void plan_windows(SparsePart &sparse, int rows, int64_t row_capacity, int k_warps) {
  constexpr int most_buffer_bytes = 40 << 10;
  const auto stride_of = [](int columns) { return columns * row_element_bytes(Operand::form) + Operand::row_padding; };
  sparse.window_rows = static_cast<int32_t>(row_capacity < rows ? row_capacity : rows);
  const auto bytes_of = [&](int columns) {
    return sparse.segment.rows.planes * sparse.window_rows * stride_of(columns);
  };
  const int turn = Operand::columns * k_warps;
  sparse.window_columns = turn;
  while (sparse.window_columns < sparse.weight.columns && bytes_of(sparse.window_columns + turn) <= most_buffer_bytes)
    sparse.window_columns += turn;
  sparse.window_stride = stride_of(sparse.window_columns);
  sparse.buffer_bytes = bytes_of(sparse.window_columns);
}

// Adds the share of a warp that has panels first_panel …, and of each the units k_warp, k_warp + k_warps … All `threads` of the
// block take part; `area`: sparse_shared_bytes, which others may still read when they come here.
template <class Operand, int panels, int blocks, int threads>
__device__ __forceinline__ void add_sparse(const Frame *frame, const LinearArguments &a, const SparsePart &sparse,
                                           const RowBlock &block, int first_panel, int k_warp, int k_warps,
                                           std::byte *area, float (&total)[panels][blocks][4]) {
  constexpr RowForm form = Operand::form;
  int32_t *const source = reinterpret_cast<int32_t *>(area);
  std::byte *const windows = area + sparse_source_bytes(8 * blocks);
  std::byte *const values = windows + 2 * sparse.buffer_bytes + 2 * warp_of_thread() * sparse.weight.value_bytes;
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (thread < 8 * blocks)
    ptx::store_shared(
        source + thread,
        thread < block.count ? static_cast<int32_t>(source_row(frame, a, sparse.segment, block.first + thread)) : -1);
  __syncthreads();

  const RowWindow<form, blocks, threads> rows(frame, sparse, windows, source);
  Operand operand[panels];
#pragma unroll
  for (int p = 0; p < panels; ++p) operand[p] = Operand(sparse.weight, block.slot, first_panel + p, values);
  const int columns = operand[0].columns_of_slot(), window_units = sparse.window_columns / Operand::columns;
  typename Operand::Unit next;
  int unit = k_warp, turn = 0;
  operand[0].fetch(unit, turn, next);
  if (columns > 0) rows.stage(0);
  for (int window = 0; window * sparse.window_columns < columns; ++window) {
    const bool special = rows.template arrive<Operand::whole_rows>(window);
    if ((window + 1) * sparse.window_columns < columns) rows.stage(window + 1);
    for (; unit < (window + 1) * window_units && unit * Operand::columns < columns; unit += k_warps) {
#pragma unroll
      for (int p = 0; p < panels; ++p) {
        const typename Operand::Unit now = next;
        turn ^= 1;
        if (p + 1 < panels) {
          operand[(p + 1) % panels].fetch(unit, turn, next);
        } else {
          operand[0].fetch(unit + k_warps, turn, next);
        }
        SparseSums<form, blocks> sums{total[p]};
        operand[p].multiply(unit, now, rows, sums, special);
      }
    }
  }
  ptx::copy_async_wait<0>();
}

}  // namespace moe::cuda
