// A tile of a dense bf16 matrix against rows rounded to bf16, where a set has their products: pairs of inputs, sums in f32 in
// order of the pairs. x [inputs / 2][R][2], an odd last input with a zero beside it.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

#if defined(MOE_BF16_PAIRS)
constexpr bool bf16_products = true;

// sums [R][32] += x [count / 2][R][2] · w [count][32]
template <int R>
void bf16_piece(const std::byte *w, const std::byte *x, int64_t count, float *sums) {
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);
  for (int64_t k = 0; k < count; k += 2, w += tile_outputs * 4, x += 4 * R) {
    __builtin_prefetch(w + prefetch_bytes);
    __builtin_prefetch(w + prefetch_bytes + tile_outputs * 2);
    Ints pairs[vectors];
    make_pairs(load_ints(w), k + 1 < count ? load_ints(w + tile_outputs * 2) : zero_ints(), pairs);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Ints row = broadcast_code(x + r * 4);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) sum[r][v] = dot_pairs(sum[r][v], pairs[v], row);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

void bf16_tile(const Matrix &matrix, int64_t index, int64_t form, const RowBlock *blocks, int32_t count, float *sums) {
  const std::byte *const tile = matrix.tiles + index * matrix.tile_bytes;
  // All blocks meet a piece while it is in the first-level cache.
  const int64_t piece = count > 1 ? 2 * linear::widened_inputs : matrix.in;
  for (int64_t k = 0; k < matrix.in; k += piece) {
    const int64_t run = least(piece, matrix.in - k);
    float *block_sums = sums;
    for (int32_t i = 0; i < count; ++i) {
      const RowBlock &block = blocks[i];
      const std::byte *const x = block.form(form) + k * block.rows * 2;
      with_rows<exact_rows>(block.rows,
                            [&]<int R>() { bf16_piece<R>(tile + k * tile_outputs * 2, x, run, block_sums); });
      block_sums += block.rows * tile_outputs;
    }
  }
}
#else
constexpr bool bf16_products = false;
#endif

}  // namespace
}  // namespace moe::cpu::MOE_ISA
