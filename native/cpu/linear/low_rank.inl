// B·(A·x): A·x of a block's rows comes first, tile by tile, and stays beside the rows, in f32 or rounded as B reads it. A
// and the kept rows are the products that come early: both are finished before the first tile of y.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Whether a matrix is multiplied with rows rounded to bf16.
MOE_INLINE bool reads_rounded(const Call &call, const Matrix &matrix) {
  return bf16_products && call.bf16 && matrix.store == MOE_BF16;
}

// Kept rows·x of a block, behind A·x.
MOE_INLINE float *kept_results(const Call &call, const Slot &slot, const RowBlock &block) {
  const int64_t before = slot.shrink.tile_count * tile_outputs * block.rows;
  return reinterpret_cast<float *>(block.form(call.forms.early)) + before;
}

// sums [rows][32] of each block, tile `index` of A or, behind A, of the kept rows, to its `early` form.
void store_early(const Call &call, const RowBlock *blocks, int32_t count, int64_t index, const float *sums) {
  const Slot &slot = call.slots[blocks[0].slot];
  const bool shrink = index < slot.shrink.tile_count;
  const bool rounded = shrink && reads_rounded(call, slot.expand);
  for (int32_t i = 0; i < count; ++i) {
    const int32_t rows = blocks[i].rows;
    std::byte *const form = blocks[i].form(call.forms.early);
    if (!shrink) {
      float *to = kept_results(call, slot, blocks[i]) + (index - slot.shrink.tile_count) * tile_outputs;
      for (int32_t r = 0; r < rows; ++r, to += slot.kept.tile_count * tile_outputs, sums += tile_outputs)
        for (int v = 0; v < tile_outputs; v += width) store(to + v, load(sums + v));
      continue;
    }
    if (rounded) {
      auto *to = reinterpret_cast<uint16_t *>(form) + index * rounded_stride(rows);
      // Zeros behind them: A's own padding is 0 · x, a NaN where x is infinite.
      const int64_t ranks = least(tile_outputs, slot.expand.in - index * tile_outputs);
      const int64_t row = rounded_row(slot.shrink.tile_count * tile_outputs);
      for (int32_t r = 0; r < rows; ++r, sums += tile_outputs, to += row)
        round_row(sums, ranks, tile_outputs, rounded_step, to);
      continue;
    }
    float *const to = reinterpret_cast<float *>(form) + index * tile_outputs * rows;
    for (int32_t r = 0; r < rows; ++r, sums += tile_outputs)
      for (int n = 0; n < tile_outputs; ++n) to[n * rows + r] = sums[n];
  }
}

// One tile of a dense matrix, sums += its product with the rows that it reads.
void dense_tile(const Call &call, const Matrix &matrix, int64_t index, int64_t codes_form, const RowBlock *blocks,
                int32_t count, float *widened, float *sums) {
  if (call.int8 && matrix.integer()) {
#if defined(MOE_TILES) || defined(MOE_MATRIX_PRODUCTS)
    return integer_tile(matrix, index, codes_form, blocks, count, widened, sums);
#else
    return int8_tile(matrix, index, codes_form, blocks, count, sums);
#endif
  }
#if defined(MOE_BF16_PAIRS)
  if (reads_rounded(call, matrix))
    return bf16_tile(matrix, index, call.forms.rounded, call.forms.stride * 2, blocks, count, widened, sums);
#endif
  exact_tile(matrix, index, call.forms.floats, blocks, count, widened, sums);
}

// sums += B·(A·x)
void expand_tile(const Call &call, const Slot &slot, int64_t index, const RowBlock *blocks, int32_t count,
                 float *widened, float *sums) {
#if defined(MOE_BF16_PAIRS)
  if (reads_rounded(call, slot.expand)) {
    const int64_t row_bytes = slot.shrink.tile_count * tile_outputs * 2;
    return bf16_tile(slot.expand, index, call.forms.early, row_bytes, blocks, count, widened, sums);
  }
#endif
  exact_tile(slot.expand, index, call.forms.early, blocks, count, widened, sums);
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
