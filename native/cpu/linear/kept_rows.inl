// Kept rows: a small dense matrix of its own, multiplied early; its results are added to the outputs that its index names.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// The first kept row of an output from `output` on; the index is ascending.
int64_t first_kept(const Slot &slot, int64_t output) {
  int64_t low = 0, high = slot.kept_count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (slot.kept_index[middle] < output) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Kept rows of outputs [begin, end) to lanes from `lane` on.
void add_kept_range(const Call &call, const Slot &slot, int64_t begin, int64_t end, int lane, const RowBlock *blocks,
                    int32_t count, float *sums) {
  const int64_t first = slot.shrink.tile_count * tile_outputs;  // A·x lies before them
  for (int64_t k = first_kept(slot, begin); k < slot.kept_count && slot.kept_index[k] < end; ++k) {
    float *to = sums + lane + (slot.kept_index[k] - begin);
    for (int32_t i = 0; i < count; ++i) {
      const int32_t rows = blocks[i].rows;
      const float *const from = reinterpret_cast<const float *>(blocks[i].form(call.forms.early)) + (first + k) * rows;
      for (int32_t r = 0; r < rows; ++r, to += tile_outputs) *to += from[r];
    }
  }
}

void add_kept_rows(const Call &call, const Slot &slot, int64_t tile, const RowBlock *blocks, int32_t count,
                   float *sums) {
  const int64_t columns = slot.columns(), lanes = slot.gated ? tile_outputs / 2 : tile_outputs;
  const int64_t begin = tile * lanes, end = least(columns, begin + lanes);
  add_kept_range(call, slot, begin, end, 0, blocks, count, sums);
  if (slot.gated) {
    add_kept_range(call, slot, columns + begin, columns + end, static_cast<int>(lanes), blocks, count, sums);
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
