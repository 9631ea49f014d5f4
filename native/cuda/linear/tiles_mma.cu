// linear for many rows, on mma.sync (tiles_mma.h).
//
// Bound: operations. Share reached: not measured on a GPU yet.
#include "linear/tiles_mma.h"

namespace moe::cuda {

template <RowForm form, int store, int tokens>
__global__ void __launch_bounds__(mma_threads, 2)
    tiles_mma_kernel(const Frame *frame, const __grid_constant__ LinearArguments a) {
  multiply_tile<form, store, tokens>(frame, a, 0, [](auto &&...) {});
}

template <RowForm form, int store, int tokens>
void launch_mma(const LinearArguments &a, const LinearPlan &plan, Launcher &launcher) {
  const Grid grid{dim3(static_cast<unsigned>(most_row_blocks(a, tokens)), blocks_for(a.panels, tile_panels)),
                  mma_threads, TileShape<form, store, tokens>::shared_bytes(mma_stages<store>, most_planes(a))};
  launcher.run(tile_work("tiles_mma", a, plan, tokens, tile_panels), tiles_mma_kernel<form, store, tokens>, grid, a);
}

void launch_tiles_mma(const LinearArguments &a, const LinearPlan &plan, Launcher &launcher) {
  for_tile_form(a, [&](auto form, auto store) {
    if (tile_tokens(a, 64) == 32) {
      launch_mma<form.value, store.value, 32>(a, plan, launcher);
    } else {
      launch_mma<form.value, store.value, 64>(a, plan, launcher);
    }
  });
}

}  // namespace moe::cuda
