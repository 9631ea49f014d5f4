// The operands of a tile of products in shared memory: a tile is `tokens` rows of x against `tile_panels` panels, 64 columns
// at a time. A stage holds one such depth:
//
//   rows     [plane][token][64 columns], 128 bytes a token (64 for int8) in pieces of 16; piece p of token t lies at
//            p ^ (t mod 8), or p ^ (t / 2 mod 4) of the 64 bytes: no eight neighbours share a bank, and it is the order in
//            which wgmma reads shared memory swizzled by 128 (64) bytes
//   weights  [panel][chunk][lane], 16 bytes each, as in packed.h
//   scales   [half][panel][16 rows] f16 or f32, of the group that ends with a half of the stage; offsets likewise
//
// Steps and sums of rows (rows.h) go a way of their own, through registers: a stage ahead, [half][token] each.
#pragma once
#include <ptx.h>

#include "kernel/shared.h"
#include "linear/arguments.h"
#include "linear/row_blocks.h"
#include "linear/scales.h"
#include "linear/weight_fragment.h"

namespace moe::cuda {

inline constexpr int tile_panels = 8, tile_halves = 2, half_columns = unit_columns / tile_halves;

template <RowForm form>
inline constexpr int tile_row_bytes = form == RowForm::int8 ? unit_columns : 2 * unit_columns;

template <RowForm form>
__device__ __forceinline__ int swizzled_piece(int token, int piece) {
  return form == RowForm::int8 ? piece ^ (token >> 1 & 3) : piece ^ (token & 7);
}

// One slot of a segment's weight.
struct TileWeight {
  const uint4 *chunks;
  int64_t scale, panel_chunks;
  int32_t panels, units, columns, groups;

  __device__ __forceinline__ TileWeight(const PackedView &view, int slot) {
    const PackedSlot &own = view.slots[view.slot_of == nullptr ? slot : ptx::load(view.slot_of + slot)];
    panels = ptx::load(&own.panels);
    units = ptx::load(&own.steps) / unit_steps;
    columns = ptx::load(&own.columns);
    groups = ptx::load(&own.groups);
    scale = ptx::load(&own.scale);
    panel_chunks = chunks_of(view.store, int64_t{units} * unit_steps);
    chunks = view.chunks + ptx::load(&own.chunk) * warp_lanes;
  }
};

// The scale group that ends with half `half` of unit `unit`, or −1.
__device__ __forceinline__ int ending_group(const PackedView &view, const TileWeight &weight, int unit, int half) {
  const int end = unit * unit_columns + (half + 1) * half_columns;
  const bool last = unit + 1 == weight.units && half + 1 == tile_halves;
  if (view.group == 0) return last ? 0 : -1;
  if (!last && (end & (view.group - 1)) != 0) return -1;
  const int group = (end - 1) / view.group;
  return group < weight.groups ? group : -1;  // −1: padding
}

// Planes of the rows of any segment.
__host__ __device__ inline int most_planes(const LinearArguments &a) {
  int planes = 1;
  for (int s = 0; s < a.segments; ++s) planes = a.segment[s].rows.planes > planes ? a.segment[s].rows.planes : planes;
  return planes;
}

// Bytes of one stage, and of what lies beside the stages.
template <RowForm form, int store, int tokens>
struct TileShape {
  using Fragment = WeightFragment<form, store>;
  static constexpr int plane_bytes = tokens * tile_row_bytes<form>;
  static constexpr int weight_bytes = tile_panels * Fragment::chunks * warp_lanes * 16;
  static constexpr int scale_bytes = Fragment::integer ? tile_halves * tile_panels * panel_rows * 4 : 0;
  static constexpr int sum_bytes = tokens * (tile_panels * panel_rows + 4) * 4;        // TileSums
  static constexpr int side_count = Fragment::integer ? 2 * tile_halves * tokens : 0;  // of steps, and of sums

  static constexpr int stage_bytes(int planes) { return planes * plane_bytes + weight_bytes + 2 * scale_bytes; }
  static size_t shared_bytes(int stages, int planes) {
    const size_t staged = static_cast<size_t>(stages) * static_cast<size_t>(stage_bytes(planes));
    const size_t sums = sum_bytes;
    return (staged > sums ? staged : sums) + size_t{2} * side_count * sizeof(float) + tokens * sizeof(int64_t) +
           sizeof(RowBlock) + 128;
  }
};

// A stage being filled by the `threads` threads of a block; `stage` is its first byte.
template <RowForm form, int store, int tokens, int threads>
struct TileStage {
  using Shape = TileShape<form, store, tokens>;
  static constexpr int chunks = Shape::Fragment::chunks;

  __device__ static __forceinline__ void copy_rows(const Frame *frame, const Rows &rows, const int64_t *source,
                                                   int unit, std::byte *stage) {
    constexpr int pieces = tile_row_bytes<form> / 16;
    const std::byte *const data = at<std::byte>(frame, rows.data);
    const int64_t row_bytes = rows.stride * (form == RowForm::int8 ? 1 : 2);
    for (int plane = 0; plane < rows.planes; ++plane) {
#pragma unroll
      for (int first = 0; first < tokens * pieces; first += threads) {
        const int index = first + static_cast<int>(threadIdx.x), token = index / pieces, piece = index % pieces;
        if (tokens * pieces % threads != 0 && token >= tokens) break;
        const int64_t row = ptx::load_shared(source + token);
        const bool valid = row >= 0;
        const std::byte *const from =
            data + (plane * rows.capacity + (valid ? row : 0)) * row_bytes + unit * tile_row_bytes<form> + piece * 16;
        ptx::copy_async(
            stage + plane * Shape::plane_bytes + token * tile_row_bytes<form> + swizzled_piece<form>(token, piece) * 16,
            from, valid);
      }
    }
  }

  // Chunks of panels first_panel … + 7; those past the slot's own are zeros.
  __device__ static __forceinline__ void copy_weights(const TileWeight &weight, int first_panel, int unit, uint4 *to) {
#pragma unroll
    for (int first = 0; first < tile_panels * chunks * warp_lanes; first += threads) {
      const int index = first + static_cast<int>(threadIdx.x);
      const int panel = first_panel + index / (chunks * warp_lanes), within = index % (chunks * warp_lanes);
      const bool valid = panel < weight.panels;
      const int64_t chunk = (valid ? panel : 0) * weight.panel_chunks + unit * chunks;
      ptx::copy_async(to + index, weight.chunks + chunk * warp_lanes + within, valid);
    }
  }

  __device__ static __forceinline__ void copy_scales(const PackedView &view, const TileWeight &weight, int first_panel,
                                                     int unit, std::byte *to) {
    if constexpr (Shape::Fragment::integer) {
      const int scale_size = view.scale == MOE_F32 ? 4 : 2, pieces = scale_size;  // of 16 bytes, in a panel's 16 scales
#pragma unroll
      for (int half = 0; half < tile_halves; ++half) {
        const int group = ending_group(view, weight, unit, half), index = static_cast<int>(threadIdx.x);
        if (group < 0 || index >= tile_panels * pieces) continue;
        const int panel = first_panel + index / pieces, piece = index % pieces;
        const bool valid = panel < weight.panels;
        const int64_t first = weight.scale + (int64_t{valid ? panel : 0} * weight.groups + group) * panel_rows;
        std::byte *const own = to + half * (Shape::scale_bytes / tile_halves) + index * 16;
        const int64_t offset = first * scale_size + piece * 16;
        ptx::copy_async(own, static_cast<const std::byte *>(view.scales) + offset, valid);
        if (view.offsets != nullptr)
          ptx::copy_async(own + Shape::scale_bytes, static_cast<const std::byte *>(view.offsets) + offset, valid);
      }
    }
  }

  // What a thread holds of the steps and sums of the next unit.
  struct Side {
    float step, sum;
  };
  __device__ static __forceinline__ Side load_side(const Frame *frame, const Segment &segment, const TileWeight &weight,
                                                   const int64_t *source, int unit) {
    Side side{0, 0};
    const int index = static_cast<int>(threadIdx.x);
    if (index >= tile_halves * tokens || unit >= weight.units) return side;
    const int group = ending_group(segment.weight, weight, unit, index / tokens);
    if (group < 0) return side;
    const int64_t row = ptx::load_shared(source + index % tokens);
    side.step = block_step(frame, segment.rows, row, group);
    if (segment.weight.offsets != nullptr) side.sum = block_sum(frame, segment.rows, row, group, weight.columns);
    return side;
  }
};

// Scale `row` of the tile's 128, from a stage.
__device__ __forceinline__ float load_staged_scale(int32_t dtype, const std::byte *scales, int row) {
  if (dtype == MOE_F32) return ptx::load_shared(reinterpret_cast<const float *>(scales) + row);
  return widen(ptx::load_shared(reinterpret_cast<const F16 *>(scales) + row));
}

// What scales the sums of a group: of one half of a stage.
struct StagedGroup {
  int32_t scale;            // dtype
  const std::byte *scales;  // of the tile's rows; offsets lie `offsets_at` behind, −1: none
  int offsets_at;
  const float *steps, *sums;  // of the tile's tokens
};

// total += step · (scale · part − offset · sum): for a panel of the tile, columns of 8 tokens as matrix products lay them out.
template <RowForm form, typename Fragment, typename Sum, int columns>
__device__ __forceinline__ void add_group(const StagedGroup &group, int panel, const Sum (&part)[columns][4],
                                          float (&total)[columns][4]) {
  const int g = lane_of_thread() / 4, q = lane_of_thread() % 4;
  const bool offsets = group.offsets_at >= 0;
  float scale[2], offset[2] = {0, 0};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = panel * panel_rows + g + 8 * r;
    scale[r] = load_staged_scale(group.scale, group.scales, row);
    if (offsets) offset[r] = load_staged_scale(group.scale, group.scales + group.offsets_at, row);
  }
#pragma unroll
  for (int column = 0; column < columns; ++column) {
    const auto of_tokens = [&](const float *values) {
      return ptx::load_shared(reinterpret_cast<const float2 *>(values + column * 8 + 2 * q));
    };
    const float2 sum = offsets ? of_tokens(group.sums) : make_float2(0, 0);
    const float2 step = form == RowForm::int8 ? of_tokens(group.steps) : make_float2(1, 1);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float whole =
          scale[i / 2] * Fragment::whole_sum(part[column][i]) - offset[i / 2] * (i % 2 == 0 ? sum.x : sum.y);
      total[column][i] += form == RowForm::int8 ? (i % 2 == 0 ? step.x : step.y) * whole : whole;
    }
  }
}

}  // namespace moe::cuda
