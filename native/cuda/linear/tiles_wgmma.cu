// linear for many rows, on wgmma (sm_90a): y = epilogue(Σ_segments W · rowsᵀ), weights in registers, rows of x in shared memory.
//
// Layout: a block is two warpgroups and computes 8 panels (128 rows of W, a panel a warp) for `tokens` rows of x of one slot.
// Packed weights come by bulk copies, a panel's 64 columns each; rows of x, gathered, and scales by asynchronous copies
// (tile_stage.h), both two stages ahead. While the product of 16 columns (32 of bytes) runs, the next weights are made into
// its operand in a second set of registers. Codes are multiplied as integers; the sum of a scale group is scaled in f32 and
// added to the sum of all: the tensor cores then work for the other warpgroup.
// Blocks of one slot and the same panels are neighbours, so that W comes from memory once and then from L2.
// Bound: operations. Share reached: not measured on a GPU yet.
#include "linear/low_rank.h"
#include "linear/quantize.h"
#include "linear/tile_form.h"
#include "linear/tile_stage.h"
#include "linear/tile_sums.h"
#include "linear/tiles.h"

namespace moe::cuda {

inline constexpr int wgmma_threads = 256, wgmma_stages = 4, wgmma_ahead = wgmma_stages - 2;

template <RowForm form, int columns>
__device__ __forceinline__ void multiply_warpgroup(typename ProductOf<form>::Sum (&d)[columns][4],
                                                   const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  if constexpr (form == RowForm::int8) {
    ptx::wgmma_s8(d, a, b, accumulate);
  } else if constexpr (form == RowForm::f16) {
    ptx::wgmma_f16(d, a, b, accumulate);
  } else {
    ptx::wgmma_bf16(d, a, b, accumulate);
  }
}

template <RowForm form, int store, int tokens>
__global__ void __launch_bounds__(wgmma_threads, 1)
    tiles_wgmma_kernel(const Frame *frame, const __grid_constant__ LinearArguments a) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = TileShape<form, store, tokens>;
  using Stage = TileStage<form, store, tokens, wgmma_threads>;
  using Fragment = typename Shape::Fragment;
  using Sum = typename ProductOf<form>::Sum;
  constexpr int columns = tokens / 8, chunks = Fragment::chunks;
  constexpr int products = unit_steps / Fragment::steps, half_products = products / tile_halves;
  const int thread = static_cast<int>(threadIdx.x), lane = lane_of_thread(), warp = warp_of_thread();
  const int g = lane / 4, q = lane % 4;

  SharedCutter cut;
  const int stage_bytes = Shape::stage_bytes(most_planes(a));
  const SharedArray<std::byte> stage_area =
      cut.take<std::byte>(max(wgmma_stages * stage_bytes, Shape::sum_bytes), 1024);
  const SharedArray<float> steps = cut.take<float>(Shape::side_count), sums = cut.take<float>(Shape::side_count);
  const SharedArray<int64_t> source = cut.take<int64_t>(tokens);
  const SharedArray<RowBlock> found = cut.take<RowBlock>(1);
  const SharedArray<uint64_t> landed = cut.take<uint64_t>(wgmma_stages);  // a stage's weights

  if (warp == 0) {
    const RowBlock block = find_row_block(frame, a, blockIdx.x, tokens);
    if (lane == 0) found[0] = block;
  }
  if (thread < wgmma_stages) ptx::mbarrier_init(&landed[thread], 1);
  __syncthreads();
  const RowBlock block = found[0];
  if (block.slot < 0) return;
  const int first_panel = static_cast<int>(blockIdx.y) * tile_panels;

  float total[columns][4] = {};
  int turn = 0;  // units of the segments before
  for (int s = 0; s < a.segments; ++s) {
    const Segment &segment = a.segment[s];
    const TileWeight weight(segment.weight, block.slot);
    if (first_panel >= weight.panels) continue;
    const bool offsets = segment.weight.offsets != nullptr,
               sided = Fragment::integer && (form == RowForm::int8 || offsets);
    const int planes = form == RowForm::bf16 ? segment.rows.planes : 1, weights_at = planes * Shape::plane_bytes;
    __syncthreads();  // the last segment is no longer read
    for (int t = thread; t < tokens; t += wgmma_threads)
      source[t] = t < block.count ? source_row(frame, a, segment, block.first + t) : -1;
    __syncthreads();

    const auto stage_of = [&](int unit) { return stage_area.data() + (turn + unit) % wgmma_stages * stage_bytes; };
    const auto fill = [&](int unit) {
      if (unit < weight.units) {
        std::byte *const weights = stage_of(unit) + weights_at;
        const int panels = min(tile_panels, weight.panels - first_panel);
        constexpr int panel_bytes = chunks * warp_lanes * 16;
        uint64_t *const barrier = &landed[(turn + unit) % wgmma_stages];
        if (thread == 0) ptx::mbarrier_arrive_expect(barrier, static_cast<uint32_t>(panels * panel_bytes));
        if (thread < panels)
          ptx::bulk_copy(weights + thread * panel_bytes,
                         weight.chunks + ((first_panel + thread) * weight.panel_chunks + unit * chunks) * warp_lanes,
                         panel_bytes, barrier);
        Stage::copy_rows(frame, segment.rows, source.data(), unit, stage_of(unit));
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
    for (int unit = 0; unit < wgmma_ahead; ++unit) fill(unit);
    put_side(next_side(0), 0);

    Sum part[columns][4];
    uint32_t left[2][Fragment::planes][4];  // one is being multiplied, one is being made
    bool more = false;                      // the group has products already
    for (int unit = 0; unit < weight.units; ++unit) {
      ptx::copy_async_wait<wgmma_ahead - 1>();
      ptx::fence_async_proxy();
      ptx::mbarrier_wait(&landed[(turn + unit) % wgmma_stages],
                         static_cast<uint32_t>((turn + unit) / wgmma_stages % 2));
      __syncthreads();
      // Into the stage of two units ago, whose products all warps have waited for; those of the last one may still run.
      fill(unit + wgmma_ahead);
      const typename Stage::Side side = next_side(unit + 1);
      const std::byte *const stage = stage_of(unit), *const weights = stage + weights_at;
      uint4 chunk[chunks] = {};
#pragma unroll
      for (int half = 0; half < tile_halves; ++half) {
#pragma unroll
        for (int c = 0; c < chunks; ++c)
          if (c * tile_halves / chunks == half)
            chunk[c] =
                ptx::load_shared(reinterpret_cast<const uint4 *>(weights) + (warp * chunks + c) * warp_lanes + lane);
        for (int plane = 0; plane < planes; ++plane) {
#pragma unroll
          for (int product = half * half_products; product < (half + 1) * half_products; ++product) {
            auto &operand = left[product % 2];
            Fragment::unpack(chunk, product * Fragment::steps, operand);
            const uint64_t right =
                ptx::wgmma_operand<tile_row_bytes<form>>(stage + plane * Shape::plane_bytes + product * 32);
            ptx::wgmma_fence();
            // All pairs of planes: a condition between the products would keep them from running on.
#pragma unroll
            for (int w = 0; w < Fragment::planes; ++w) {
              if constexpr (Fragment::integer) {
                multiply_warpgroup<form>(part, operand[w], right, more);
                more = true;
              } else {
                multiply_warpgroup<form>(total, operand[w], right, true);
              }
            }
            ptx::wgmma_commit();
            ptx::wgmma_wait<1>();
          }
        }
        if constexpr (Fragment::integer) {
          if (ending_group(segment.weight, weight, unit, half) < 0) continue;
          ptx::wgmma_wait<0>();
          ptx::wgmma_settle(part);
          more = false;
          const int side_at = (unit % 2 * tile_halves + half) * tokens;
          const StagedGroup group{segment.weight.scale,
                                  weights + Shape::weight_bytes + half * (Shape::scale_bytes / tile_halves),
                                  offsets ? Shape::scale_bytes : -1, &steps[side_at], &sums[side_at]};
          add_group<form, Fragment>(group, warp, part, total);
        }
      }
      put_side(side, unit + 1);
    }
    ptx::wgmma_wait<0>();
    ptx::wgmma_settle(total);
    ptx::copy_async_wait<0>();
    turn += weight.units;
  }

  add_low_rank(frame, a, block, first_panel + warp, 0, 1, total);

  // Through shared memory, so that the epilogue is there once and a row's neighbours are stored together.
  __syncthreads();
  const TileSums<tokens> tile(reinterpret_cast<float *>(stage_area.data()));
#pragma unroll
  for (int column = 0; column < columns; ++column)
#pragma unroll
    for (int i = 0; i < 4; ++i) tile.put(column * 8 + 2 * q + i % 2, warp, g + i / 2 * 8, total[column][i]);
  __syncthreads();
  tile.store_all(Epilogue(frame, a, block.slot), block, first_panel, a.panels);
  quantize_finished_rows<wgmma_threads>(frame, a, block, blockIdx.x, gridDim.y,
                                        {reinterpret_cast<int32_t *>(stage_area.data()), wgmma_threads / warp_lanes});
#endif
}

template <RowForm form, int store, int tokens>
bool launch_wgmma(const LinearArguments &a, const LinearPlan &plan, Launcher &launcher) {
  const size_t bytes = TileShape<form, store, tokens>::shared_bytes(wgmma_stages, most_planes(a));
  if (bytes > launcher.device().shared_bytes()) return false;
  const Grid grid{dim3(static_cast<unsigned>(most_row_blocks(a, tokens)), blocks_for(a.panels, tile_panels)),
                  wgmma_threads, bytes};
  launcher.run(tile_work("tiles_wgmma", a, plan, tokens, tile_panels), tiles_wgmma_kernel<form, store, tokens>, grid,
               a);
  return true;
}

void launch_tiles_wgmma(const LinearArguments &a, const LinearPlan &plan, Launcher &launcher) {
  for_tile_form(a, [&](auto form, auto store) {
    const bool wide = tile_tokens(a, 128) == 128;
    if (wide && launch_wgmma<form.value, store.value, 128>(a, plan, launcher)) return;
    launch_wgmma<form.value, store.value, 64>(a, plan, launcher);
  });
}

}  // namespace moe::cuda
