// The low-rank part of a sum, added in the registers of the kernel that sums the rest: B · t, where t = x·Aᵀ lies in
// f32.
//
// How to use it: a warp that holds the f32 sums of a panel (rows g and g + 8, rows 2q and 2q + 1 of each eight of y, as
// m16n8 products leave them) calls `add_low_rank` once its other products are in them. Ranks are small beside widths,
// so operands come straight from memory and L2; t is split into three bf16 planes on the way (rows.h), which loses
// nothing.
#pragma once
#include <type_traits>

#include "linear/arguments.h"
#include "linear/row_blocks.h"
#include "linear/weight_fragment.h"

namespace moe::cuda {

// Bytes of t, which every panel reads.
inline int64_t low_rank_bytes(const LinearArguments &a) {
  return a.low_rank.weight.present() ? 4 * a.row_capacity * a.low_rank.stride * a.panels : 0;
}

template <int store, int blocks>
__device__ __forceinline__ void add_low_rank_of(const uint4 *chunks, const float *t, int stride, int count, int steps,
                                                int first, int turn, float (&total)[blocks][4]) {
  using Fragment = WeightFragment<RowForm::bf16, store>;
  constexpr int step_chunks = Fragment::chunks / unit_steps, row_planes = 3;
  const int lane = lane_of_thread(), g = lane / 4, q = lane % 4;
  for (int step = first; step < steps; step += turn) {
    uint4 unit[Fragment::chunks];
#pragma unroll
    for (int i = 0; i < step_chunks; ++i)
      unit[i] = ptx::load(chunks + (static_cast<int64_t>(step) * step_chunks + i) * warp_lanes + lane);
    uint32_t a[Fragment::planes][4];
    Fragment::unpack(unit, 0, a);
#pragma unroll
    for (int n = 0; n < blocks; ++n) {
      float2 low = make_float2(0, 0), high = low;
      if (8 * n + g < count) {
        const float *const from = t + static_cast<int64_t>(8 * n + g) * stride + step * step_columns + 2 * q;
        low = ptx::load(reinterpret_cast<const float2 *>(from));
        high = ptx::load(reinterpret_cast<const float2 *>(from + 8));
      }
      uint32_t first_pair[row_planes], second_pair[row_planes];
      split_bf16(low.x, low.y, first_pair);
      split_bf16(high.x, high.y, second_pair);
#pragma unroll
      for (int plane = 0; plane < row_planes; ++plane) {
        const uint32_t b[2] = {first_pair[plane], second_pair[plane]};
#pragma unroll
        for (int own = 0; own < Fragment::planes; ++own)
          if (own + plane <= 2) ptx::mma_bf16(total[n], a[own], b);
      }
    }
  }
}

// Adds steps first, first + turn, … of the rank, so that warps that share a panel can share it out.
template <int blocks>
__device__ __forceinline__ void add_low_rank(const Frame *frame, const LinearArguments &a, const RowBlock &block,
                                             int panel, int first, int turn, float (&total)[blocks][4]) {
  const PackedView &weight = a.low_rank.weight;
  if (!weight.present()) return;
  const PackedSlot *const slot = weight.slots + block.slot;
  if (panel >= ptx::load(&slot->panels)) return;
  const int steps = (ptx::load(&slot->columns) + step_columns - 1) / step_columns;
  const int64_t panel_chunks = chunks_of(weight.store, ptx::load(&slot->steps));
  const uint4 *const chunks = weight.chunks + (ptx::load(&slot->chunk) + panel * panel_chunks) * warp_lanes;
  const float *const t = at<float>(frame, a.low_rank.t) + block.first * a.low_rank.stride;
  const auto add = [&](auto store) {
    add_low_rank_of<decltype(store)::value>(chunks, t, a.low_rank.stride, block.count, steps, first, turn, total);
  };
  if (weight.store == MOE_BF16) {
    add(std::integral_constant<int, MOE_BF16>());
  } else if (weight.store == MOE_F16) {
    add(std::integral_constant<int, MOE_F16>());
  } else {
    add(std::integral_constant<int, MOE_F32>());
  }
}

}  // namespace moe::cuda
