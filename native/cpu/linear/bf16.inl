// A tile of a dense bf16 matrix against rows rounded to bf16, where a set has their products: pairs of inputs, sums in f32 in
// order of the pairs. x [R][stride], zeros behind its inputs.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

#if defined(MOE_BF16_PAIRS)
constexpr bool bf16_products = true;
#else
constexpr bool bf16_products = false;
#endif

#if defined(MOE_BF16_PAIRS) && !defined(MOE_TILES)  // in tiles: amx_bf16.inl
static_assert(int8_rows <= exact_rows);  // a call of nothing but dense products is cut into blocks of int8_rows

// sums [R][32] += x [R][count] · w [count][32]; x: a row every `row_bytes`.
template <int R>
void bf16_piece(const std::byte *w, const std::byte *x, int64_t row_bytes, int64_t count, float *sums) {
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);
  for (int64_t k = 0; k < count; k += 2, w += tile_outputs * 4, x += 4) {
    linear::prefetch(w + prefetch_bytes);
    linear::prefetch(w + prefetch_bytes + tile_outputs * 2);
    Ints pairs[vectors];
    make_pairs(load_ints(w), k + 1 < count ? load_ints(w + tile_outputs * 2) : zero_ints(), pairs);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Ints row = broadcast_code(x + r * row_bytes);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) sum[r][v] = dot_pairs(sum[r][v], pairs[v], row);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

void bf16_tile(const Matrix &matrix, int64_t index, int64_t form, int64_t row_bytes, const RowBlock *blocks,
               int32_t count, float * /* widened: pairs are made in registers */, float *sums) {
  const std::byte *const tile = matrix.tiles + index * matrix.tile_bytes;
  // All blocks meet a piece while it is in the first-level cache.
  const int64_t piece = count > 1 ? 2 * linear::widened_inputs : matrix.in;
  for (int64_t k = 0; k < matrix.in; k += piece) {
    const int64_t run = least(piece, matrix.in - k);
    float *block_sums = sums;
    for (int32_t i = 0; i < count; ++i) {
      const RowBlock &block = blocks[i];
      const std::byte *const x = block.form(form) + k * 2;
      with_rows<exact_rows>(
          block.rows, [&]<int R>() { bf16_piece<R>(tile + k * tile_outputs * 2, x, row_bytes, run, block_sums); });
      block_sums += block.rows * tile_outputs;
    }
  }
}
#endif

}  // namespace
}  // namespace moe::cpu::MOE_ISA
