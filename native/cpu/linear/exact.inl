// A tile of a dense matrix in f32: sums in order of the inputs, one chain an output; integer weights are widened to f32
// piece by piece first.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Sums, one weight row and a broadcast x fit the registers: 12 · 2 + 2 + 1 of 32; 3 · 4 + 1 + 3 of 16; 3 · 8 + … of
// 32; 1 · 8 + … of 16.
constexpr int exact_rows = registers * 3 / 4 / vectors;

// Runs body.template operator()<R>() with R = rows, 1 ≤ rows ≤ most.
template <int most, typename Body>
MOE_INLINE void with_rows(int rows, const Body &body) {
  if constexpr (most > 1) {
    if (rows < most) return with_rows<most - 1>(rows, body);
  }
  body.template operator()<most>();
}

// sums [R][32] += x [count][R] · w [count][32]
template <int R, int store_form>
void exact_piece(const std::byte *w, const float *x, int64_t count, float *sums) {
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);
  constexpr int64_t weights_bytes = tile_outputs * (store_form == MOE_F32 ? 4 : 2);
  for (int64_t k = 0; k < count; ++k, x += R) {
#pragma GCC unroll 2
    for (int64_t line = 0; line < weights_bytes; line += 64)
      linear::prefetch(w + k * weights_bytes + prefetch_bytes + line);
    Vec weight[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) weight[v] = load_weight<store_form>(w, k * tile_outputs + v * width);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec row = broadcast(x[r]);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) sum[r][v] = fma(row, weight[v], sum[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

// `form`: the floats that the matrix reads, [padded][R] of each block.
template <int store_form>
void exact_pieces(const Matrix &matrix, const std::byte *tile, int64_t form, const RowBlock *blocks, int32_t count,
                  float *widened, float *sums) {
  const bool integer = matrix.integer();
  const int64_t inputs = integer ? matrix.padded : matrix.in;
  // All blocks meet a piece while it is in the first-level cache.
  constexpr int64_t cached = store_form == MOE_F32 ? linear::widened_inputs : 2 * linear::widened_inputs;
  const int64_t piece = integer || count > 1 ? cached : inputs;
  for (int64_t k = 0; k < inputs; k += piece) {
    const int64_t run = least(piece, inputs - k);
    const std::byte *weights = tile + k * tile_outputs * (store_form == MOE_F32 ? 4 : 2);
    if (integer) {
      widen(matrix, tile, k, k + run, widened);
      weights = reinterpret_cast<const std::byte *>(widened);
    }
    float *block_sums = sums;
    for (int32_t i = 0; i < count; ++i) {
      const RowBlock &block = blocks[i];
      const float *x = reinterpret_cast<const float *>(block.form(form)) + k * block.rows;
      with_rows<exact_rows>(block.rows, [&]<int R>() { exact_piece<R, store_form>(weights, x, run, block_sums); });
      block_sums += block.rows * tile_outputs;
    }
  }
}

// All blocks of a segment against one tile; pieces of the inputs in order, the sums kept between them.
void exact_tile(const Matrix &matrix, int64_t index, int64_t form, const RowBlock *blocks, int32_t count,
                float *widened, float *sums) {
  const std::byte *const tile = matrix.tiles + index * matrix.tile_bytes;
  if (matrix.store == MOE_F16) {
    exact_pieces<MOE_F16>(matrix, tile, form, blocks, count, widened, sums);
  } else if (matrix.store == MOE_BF16) {
    exact_pieces<MOE_BF16>(matrix, tile, form, blocks, count, widened, sums);
  } else {
    exact_pieces<MOE_F32>(matrix, tile, form, blocks, count, widened, sums);
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
