#include "linear/tiles.h"

#include <algorithm>

#include "linear/low_rank.h"
#include "linear/row_blocks.h"
#include "linear/tile_form.h"

namespace moe::cuda {

// Int8 products of a block of columns are summed in 32 bits, i4 codes times 16: 2^31 / (127 · 128).
constexpr int32_t most_summed_columns = 131072;

bool tiles_can_run(const Device &device, const LinearArguments &a) {
  if (device.architecture() < 80) return false;
  for (int s = 0; s < a.segments; ++s) {
    const Segment &segment = a.segment[s];
    if (segment.weight.scale == MOE_I8) return false;
    if (segment.rows.form == RowForm::int8 && segment.rows.block > most_summed_columns) return false;
  }
  return for_tile_form(a, [](auto, auto) {});
}

int tile_tokens(const LinearArguments &a, int most) {
  const int64_t mean = ceil_divide(a.row_capacity, std::max(a.slots, 1));
  int tokens = 16;
  while (tokens < most && tokens < mean) tokens *= 2;
  return tokens;
}

Work tile_work(const char *kernel, const LinearArguments &a, const LinearPlan &plan, int tokens, int panels) {
  Work work{kernel, plan.matrix_bytes * most_row_blocks(a, tokens) + plan.output_bytes,
            plan.row_operations * a.row_capacity};
  for (int s = 0; s < a.segments; ++s) {
    const Rows &rows = a.segment[s].rows;
    const int64_t row_bytes = rows.stride * rows.planes * (rows.form == RowForm::int8 ? 1 : 2) +
                              4 * rows.blocks * ((rows.steps.present() ? 1 : 0) + (rows.sums.present() ? 1 : 0));
    work.bytes += a.row_capacity * row_bytes * ceil_divide(a.panels, panels);
  }
  work.bytes += low_rank_bytes(a);
  return work;
}

void launch_tiles(const LinearArguments &a, const LinearPlan &plan, Launcher &launcher) {
  // A warpgroup is worth its shared memory from 64 rows on.
  if (launcher.device().architecture() == 90 && tile_tokens(a, 64) == 64) {
    launch_tiles_wgmma(a, plan, launcher);
  } else {
    launch_tiles_mma(a, plan, launcher);
  }
}

}  // namespace moe::cuda
