// A tile of products on mma.sync: y = epilogue(Σ_segments W · rowsᵀ), weights on the side of 16.
//
// Layout: a block has 128 threads and computes 8 panels (128 rows of W) for `tokens` rows of x of one slot: a warp two panels,
// all tokens. Operands are staged in shared memory (tile_stage.h), 64 columns at a time, by asynchronous copies that run
// two or three stages ahead; rows of x are gathered by the copies themselves. Codes are multiplied as integers in 16-bit
// floats or bytes; the sum of a scale group is scaled in f32 and added to the sum of all.
// Blocks of one slot and the same panels are neighbours, so that W comes from memory once and then from L2.
#pragma once
#include "linear/low_rank.h"
#include "linear/quantize.h"
#include "linear/tile_form.h"
#include "linear/tile_stage.h"
#include "linear/tile_sums.h"
#include "linear/tiles.h"

namespace moe::cuda {

inline constexpr int mma_threads = 128, mma_warp_panels = 2;

template <int store>
inline constexpr int mma_stages = store == MOE_F32                     ? 2
                                  : store == MOE_I4 || store == MOE_I8 ? 4
                                                                       : 3;

// `more_bytes`: of shared memory for what add(block, first panel of the warp, area, total) adds to the sum besides, in place
// of the stages.
template <RowForm form, int store, int tokens, class Add>
__device__ __forceinline__ void multiply_tile(const Frame *frame, const LinearArguments &a, int more_bytes,
                                              const Add &add) {
  using Shape = TileShape<form, store, tokens>;
  using Stage = TileStage<form, store, tokens, mma_threads>;
  using Fragment = typename Shape::Fragment;
  using Sum = typename ProductOf<form>::Sum;
  constexpr int stages = mma_stages<store>, columns = tokens / 8;  // of 8 tokens
  constexpr int products = unit_steps / Fragment::steps, half_products = products / tile_halves;
  const int thread = static_cast<int>(threadIdx.x), lane = lane_of_thread(), warp = warp_of_thread();
  const int g = lane / 4, q = lane % 4;

  SharedCutter cut;
  const int stage_bytes = Shape::stage_bytes(most_planes(a)), staged = stages * stage_bytes;

  const SharedArray<std::byte> stage_area = cut.take<std::byte>(max(max(staged, more_bytes), Shape::sum_bytes), 128);
  const SharedArray<float> steps = cut.take<float>(Shape::side_count), sums = cut.take<float>(Shape::side_count);
  const SharedArray<int64_t> source = cut.take<int64_t>(tokens);
  const SharedArray<RowBlock> found = cut.take<RowBlock>(1);

  if (warp == 0) {
    const RowBlock block = find_row_block(frame, a, blockIdx.x, tokens);
    if (lane == 0) found[0] = block;
  }
  __syncthreads();
  const RowBlock block = found[0];
  if (block.slot < 0) return;
  const int first_panel = static_cast<int>(blockIdx.y) * tile_panels;

  float total[mma_warp_panels][columns][4] = {};
  for (int s = 0; s < a.segments; ++s) {
    const Segment &segment = a.segment[s];
    const TileWeight weight(segment.weight, block.slot);
    if (first_panel >= weight.panels) continue;
    const bool offsets = segment.weight.offsets != nullptr,
               sided = Fragment::integer && (form == RowForm::int8 || offsets);
    __syncthreads();  // the last segment is no longer read
    for (int t = thread; t < tokens; t += mma_threads)
      source[t] = t < block.count ? source_row(frame, a, segment, block.first + t) : -1;
    __syncthreads();

    const auto fill = [&](int unit) {
      if (unit < weight.units) {
        std::byte *const stage = stage_area.data() + unit % stages * stage_bytes;
        std::byte *const weights = stage + segment.rows.planes * Shape::plane_bytes;
        Stage::copy_rows(frame, segment.rows, source.data(), unit, stage);
        Stage::copy_weights(weight, first_panel, unit, reinterpret_cast<uint4 *>(weights));
        Stage::copy_scales(segment.weight, weight, first_panel, unit, weights + Shape::weight_bytes);
      }
      ptx::copy_async_commit();
    };
    const auto put_side = [&](const typename Stage::Side &side, int unit) {
      if (!sided || thread >= tile_halves * tokens) return;
      const int to = unit % 2 * tile_halves * tokens + thread;
      ptx::store_shared(&steps[to], side.step);
      ptx::store_shared(&sums[to], side.sum);
    };
    const auto next_side = [&](int unit) {
      return sided ? Stage::load_side(frame, segment, weight, source.data(), unit) : typename Stage::Side{};
    };
#pragma unroll
    for (int unit = 0; unit + 1 < stages; ++unit) fill(unit);
    put_side(next_side(0), 0);

    Sum part[mma_warp_panels][columns][4] = {};
    for (int unit = 0; unit < weight.units; ++unit) {
      ptx::copy_async_wait<stages - 2>();
      __syncthreads();
      fill(unit + stages - 1);
      const typename Stage::Side side = next_side(unit + 1);
      const std::byte *const stage = stage_area.data() + unit % stages * stage_bytes;
      const std::byte *const weights = stage + segment.rows.planes * Shape::plane_bytes;
      uint4 chunk[mma_warp_panels][Fragment::chunks] = {};
#pragma unroll
      for (int product = 0; product < products; ++product) {
        // The chunks that begin with this product.
        constexpr int chunks = Fragment::chunks;
#pragma unroll
        for (int c = (product * chunks + products - 1) / products;
             c < ((product + 1) * chunks + products - 1) / products; ++c)
#pragma unroll
          for (int p = 0; p < mma_warp_panels; ++p)
            chunk[p][c] = ptx::load_shared(reinterpret_cast<const uint4 *>(weights) +
                                           ((warp * mma_warp_panels + p) * chunks + c) * warp_lanes + lane);
        uint32_t left[mma_warp_panels][Fragment::planes][4];
#pragma unroll
        for (int p = 0; p < mma_warp_panels; ++p) Fragment::unpack(chunk[p], product * Fragment::steps, left[p]);
        for (int plane = 0; plane < segment.rows.planes; ++plane) {
#pragma unroll
          for (int column = 0; column < columns; column += 2) {
            const int token = column * 8 + lane % 8 + lane / 16 * 8, piece = 2 * product + lane / 8 % 2;
            uint32_t right[4];
            ptx::ldmatrix_x4(right, stage + plane * Shape::plane_bytes + token * tile_row_bytes<form> +
                                        swizzled_piece<form>(token, piece) * 16);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const uint32_t operand[2] = {right[2 * i], right[2 * i + 1]};
#pragma unroll
              for (int w = 0; w < Fragment::planes; ++w) {
                if (w + plane > 2) continue;
#pragma unroll
                for (int p = 0; p < mma_warp_panels; ++p) {
                  if constexpr (Fragment::integer) {
                    multiply<form>(part[p][column + i], left[p][w], operand);
                  } else {
                    multiply<form>(total[p][column + i], left[p][w], operand);
                  }
                }
              }
            }
          }
        }
        if constexpr (Fragment::integer) {
          const int half = product / half_products;
          if ((product + 1) % half_products != 0 || ending_group(segment.weight, weight, unit, half) < 0) continue;
          const int side_at = (unit % 2 * tile_halves + half) * tokens;
          const StagedGroup group{segment.weight.scale,
                                  weights + Shape::weight_bytes + half * (Shape::scale_bytes / tile_halves),
                                  offsets ? Shape::scale_bytes : -1, &steps[side_at], &sums[side_at]};
#pragma unroll
          for (int p = 0; p < mma_warp_panels; ++p) {
            add_group<form, Fragment>(group, warp * mma_warp_panels + p, part[p], total[p]);
#pragma unroll
            for (int i = 0; i < 4 * columns; ++i) part[p][i / 4][i % 4] = 0;
          }
        }
      }
      put_side(side, unit + 1);
    }
    ptx::copy_async_wait<0>();
  }

  add(block, first_panel + warp * mma_warp_panels, stage_area.data(), total);
#pragma unroll
  for (int p = 0; p < mma_warp_panels; ++p)
    add_low_rank(frame, a, block, first_panel + warp * mma_warp_panels + p, 0, 1, total[p]);

  // Through shared memory, so that the epilogue is there once and a row's neighbours are stored together.
  __syncthreads();
  const TileSums<tokens> tile(reinterpret_cast<float *>(stage_area.data()));
#pragma unroll
  for (int p = 0; p < mma_warp_panels; ++p)
#pragma unroll
    for (int column = 0; column < columns; ++column)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        tile.put(column * 8 + 2 * q + i % 2, warp * mma_warp_panels + p, g + i / 2 * 8, total[p][column][i]);
  __syncthreads();
  tile.store_all(Epilogue(frame, a, block.slot), block, first_panel, a.panels);
  quantize_finished_rows<mma_threads>(frame, a, block, blockIdx.x, gridDim.y,
                                      {reinterpret_cast<int32_t *>(stage_area.data()), mma_threads / warp_lanes});
}

}  // namespace moe::cuda
