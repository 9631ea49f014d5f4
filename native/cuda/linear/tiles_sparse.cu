// linear for many rows with a base and a sparse part of the 2:4 form: y = epilogue(Σ_segments W · rowsᵀ + S · rowsᵀ).
//
// Layout: tiles_mma.h; when the segments are summed the same warps go on with S (sparse_product.h), in the same registers and
// the same shared memory. Tiles are of 64 rows; the store of S is looked at when the kernel runs. It runs on sm_90a too: sparse
// products of a warpgroup take S from shared memory in an order of their own, which decoding could not read.
// Bound: operations. Share reached: not measured on a GPU yet.
#include <algorithm>

#include "linear/sparse_half.h"
#include "linear/tiles_mma.h"

namespace moe::cuda {

inline constexpr int joined_tokens = 64, mma_warps = mma_threads / warp_lanes;

struct TilesSparseArguments {
  LinearArguments linear;
  SparsePart sparse;
};

template <RowForm form, int store>
__global__ void __launch_bounds__(mma_threads, 2)
    tiles_sparse_kernel(const Frame *frame, const __grid_constant__ TilesSparseArguments a) {
  multiply_tile<form, store, joined_tokens>(
      frame, a.linear, sparse_shared_bytes(a.sparse, joined_tokens, mma_warps),
      [&](const RowBlock &block, int first_panel, std::byte *area,
          float (&total)[mma_warp_panels][joined_tokens / 8][4]) {
        for_half_store<form>(a.sparse.weight.store, [&](auto operand) {
          add_sparse<decltype(operand), mma_warp_panels, joined_tokens / 8, mma_threads>(
              frame, a.linear, a.sparse, block, first_panel, 0, 1, area, total);
        });
      });
}

bool launch_tiles_sparse(const LinearArguments &linear, const SparsePart &sparse, const LinearPlan &plan,
                         Launcher &launcher) {
  bool fits = true;
  for_tile_form(linear, [&](auto form, auto store) {
    using Shape = TileShape<form.value, store.value, joined_tokens>;
    constexpr int stages = mma_stages<store.value>;
    TilesSparseArguments a{linear, sparse};
    plan_windows<HalfOperand<form.value, MOE_I8>>(a.sparse, joined_tokens, linear.row_capacity, 1);
    const int area = std::max(stages * Shape::stage_bytes(most_planes(linear)), int{Shape::sum_bytes});
    const int more = std::max(sparse_shared_bytes(a.sparse, joined_tokens, mma_warps) - area, 0);
    const size_t shared = Shape::shared_bytes(stages, most_planes(linear)) + static_cast<size_t>(more);
    fits = shared <= launcher.device().shared_bytes();
    if (!fits) return;
    const Grid grid{
        dim3(static_cast<unsigned>(most_row_blocks(linear, joined_tokens)), blocks_for(linear.panels, tile_panels)),
        mma_threads, shared};
    Work work = tile_work("tiles_sparse", linear, plan, joined_tokens, tile_panels);
    work.bytes += sparse_row_bytes(sparse, linear.row_capacity) * grid.blocks.y;
    launcher.run(work, tiles_sparse_kernel<form.value, store.value>, grid, a);
  });
  return fits;
}

}  // namespace moe::cuda
