// B·(A·x): A·x of a block's rows comes first, tile by tile, and stays in f32 beside the rows; B then reads it as its
// inputs. A and the kept rows are the products that come early: both are finished before the first tile of y.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// sums [rows][32] of each block, to rows [32 · index, …) of its `early` form.
void store_early(const Call &call, const RowBlock *blocks, int32_t count, int64_t index, const float *sums) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t rows = blocks[i].rows;
    float *const to = reinterpret_cast<float *>(blocks[i].form(call.forms.early)) + index * tile_outputs * rows;
    for (int32_t r = 0; r < rows; ++r, sums += tile_outputs)
      for (int n = 0; n < tile_outputs; ++n) to[n * rows + r] = sums[n];
  }
}

// One tile of a dense matrix, sums += its product with the rows that it reads.
void dense_tile(const Call &call, const Matrix &matrix, int64_t index, int64_t codes_form, const RowBlock *blocks,
                int32_t count, float *widened, float *sums) {
  if (call.int8 && matrix.integer()) {
#if defined(MOE_TILES)
    return integer_tile(matrix, index, codes_form, blocks, count, widened, sums);
#else
    return int8_tile(matrix, index, codes_form, blocks, count, sums);
#endif
  }
  exact_tile(matrix, index, call.forms.floats, blocks, count, widened, sums);
}

// sums += B·(A·x)
void expand_tile(const Call &call, const Slot &slot, int64_t index, const RowBlock *blocks, int32_t count,
                 float *widened, float *sums) {
  exact_tile(slot.expand, index, call.forms.early, blocks, count, widened, sums);
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
