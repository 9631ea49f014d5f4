// y = activation(Σ_segments rows·Wᵀ + kept + bias) + residual for few rows: decoding.
//
// Layout: weights and rows as packed.h and rows.h draw them; y [rows, columns] row-major. A thread block takes `panel_warps`
// panels of 16 weight rows × a row block of up to 8 or 16 rows; the warps of a panel share out its columns
// (decode_segment.h), and their sums are added up in a fixed order.
// Bound: bytes of the weights, each read once a row block. Share reached: not measured on a GPU yet.
#pragma once
#include <algorithm>

#include "host/launcher.h"
#include "linear/decode.h"
#include "linear/decode_segment.h"
#include "linear/epilogue.h"
#include "linear/low_rank.h"
#include "linear/quantize.h"

namespace moe::cuda {

inline constexpr int sum_stride = 20;  // floats of a column of 16 sums: lanes of a warp hit every bank once

// `buffer_bytes`: of shared memory for staged rows. add(block, panel, k_warp, k_warps, buffers, total) adds what else belongs
// to the sum, in place of the staged rows.
template <RowForm form, int store, int blocks, class Add>
__device__ __forceinline__ void decode_panels(const Frame *frame, const DecodeArguments &a, int buffer_bytes,
                                              const Add &add) {
  SharedCutter cut;
  const SharedArray<float> sums = cut.take<float>(decode_warps * 8 * blocks * sum_stride);
  const DecodeShared shared{cut.take<int32_t>(8 * blocks), cut.take<std::byte>(buffer_bytes)};
  const RowBlock block = find_row_block(frame, a.linear, blockIdx.y, 8 * blocks);
  if (block.slot < 0) return;
  const int thread = static_cast<int>(threadIdx.x), lane = lane_of_thread(), warp = warp_of_thread();
  const int k_warps = decode_warps / a.panel_warps, first_panel = static_cast<int>(blockIdx.x) * a.panel_warps;

  const int panel = first_panel + warp / k_warps;
  float total[1][blocks][4]{};
  for (int s = 0; s < a.linear.segments; ++s)
    DecodeSegment<form, store, blocks>(frame, a, a.linear.segment[s], block, panel, shared).add_to(total[0]);
  add(block, panel, warp % k_warps, k_warps, shared.buffers.data(), total);
  add_low_rank(frame, a.linear, block, panel, warp % k_warps, k_warps, total[0]);

  float *const own = sums.data() + warp * 8 * blocks * sum_stride;
#pragma unroll
  for (int n = 0; n < blocks; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      own[(8 * n + 2 * (lane % 4) + i % 2) * sum_stride + lane / 4 + 8 * (i / 2)] = total[0][n][i];
  __syncthreads();
  const Epilogue epilogue(frame, a.linear, block.slot);
  for (int i = thread; i < a.panel_warps * block.count * 8; i += decode_threads) {
    const int g = i % 8, row = i / 8 % block.count, panel = i / 8 / block.count;
    if (first_panel + panel >= a.linear.panels) continue;
    float low = 0, high = 0;
    for (int k = 0; k < k_warps; ++k) {
      const float *const from = sums.data() + ((panel * k_warps + k) * 8 * blocks + row) * sum_stride + g;
      low += from[0];
      high += from[8];
    }
    epilogue.store(block.first + row, first_panel + panel, g, low, high);
  }
  quantize_finished_rows<decode_threads>(frame, a.linear, block, blockIdx.y, gridDim.x,
                                         {reinterpret_cast<int32_t *>(sums.data()), decode_warps});
}

template <RowForm form, int store, int blocks>
__global__ void __launch_bounds__(decode_threads, store == MOE_F32 ? 1 : 2)
    decode_kernel(const Frame *frame, const __grid_constant__ DecodeArguments a) {
  decode_panels<form, store, blocks>(frame, a, a.buffers * a.buffer_bytes, [](auto &&...) {});
}

inline DecodeArguments plan_decode(const LinearArguments &linear, int blocks, const Device &device) {
  constexpr int most_buffer_bytes = 40 << 10;
  DecodeArguments a{linear, 0, 0, 0, 0, 0};
  a.staged_rows = static_cast<int32_t>(std::min<int64_t>(linear.row_capacity, 8 * blocks));
  int units = 0;
  for (int s = 0; s < linear.segments; ++s) units = std::max(units, linear.segment[s].weight.steps / unit_steps);
  // With more rows there are more panels to a thread block, so that staging the rows is worth its while; with few columns too,
  // so that each warp has two pairs of units. How many warps share a row decides the order of its sum.
  a.panel_warps = device.batch_invariant() || a.staged_rows > 4 ? 4 : a.staged_rows > 2 ? 2 : 1;
  while (a.panel_warps < decode_warps && units * a.panel_warps < 4 * decode_warps) a.panel_warps *= 2;
  const auto bytes_of = [&](int staged) {
    int bytes = 0;
    for (int s = 0; s < linear.segments; ++s)
      bytes = std::max(bytes, staged_bytes(linear.segment[s].rows, staged, a.staged_rows, 8 * blocks));
    return bytes;
  };
  const int turn = most_ring_units * decode_warps / a.panel_warps;
  a.staged_units = turn;
  while (a.staged_units < units && bytes_of(a.staged_units + turn) <= most_buffer_bytes) a.staged_units += turn;
  a.buffers = a.staged_units < units ? 2 : 1;
  a.buffer_bytes = bytes_of(a.staged_units);
  return a;
}

inline Grid decode_grid(const DecodeArguments &a, int blocks, int buffer_bytes) {
  const dim3 grid(blocks_for(a.linear.panels, a.panel_warps),
                  static_cast<unsigned>(most_row_blocks(a.linear, 8 * blocks)));
  const size_t shared_bytes = decode_warps * 8 * static_cast<size_t>(blocks) * sum_stride * sizeof(float) +
                              8 * static_cast<size_t>(blocks) * sizeof(int32_t) + static_cast<size_t>(buffer_bytes);
  return {grid, decode_threads, shared_bytes};
}

inline Work decode_work(const char *name, const LinearArguments &linear, const LinearPlan &plan, const dim3 &grid) {
  Work work{name, plan.matrix_bytes * grid.y + plan.output_bytes, plan.row_operations * linear.row_capacity};
  for (int s = 0; s < linear.segments; ++s) {
    const Rows &rows = linear.segment[s].rows;
    work.bytes += linear.row_capacity * rows.stride * rows.planes * row_element_bytes(rows.form) * grid.x;
  }
  work.bytes += low_rank_bytes(linear);
  return work;
}

template <RowForm form, int store, int blocks>
void launch_decode_kernel(const LinearArguments &linear, const LinearPlan &plan, Launcher &launcher) {
  const DecodeArguments a = plan_decode(linear, blocks, launcher.device());
  const Grid grid = decode_grid(a, blocks, a.buffers * a.buffer_bytes);
  launcher.run(decode_work("decode", linear, plan, grid.blocks), decode_kernel<form, store, blocks>, grid, a);
}

template <RowForm form, int store>
void launch_decode_form(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher) {
  const int64_t slots = arguments.offsets.present() ? arguments.slots : 1;
  if (arguments.row_capacity <= 8 * slots) {
    launch_decode_kernel<form, store, 1>(arguments, plan, launcher);
  } else {
    launch_decode_kernel<form, store, 2>(arguments, plan, launcher);
  }
}

}  // namespace moe::cuda
