// A tile of a dense bf16 matrix against rows rounded to bf16 where there are tile registers (simd/amx.h), for blocks of any
// number of rows: one instruction makes the sums of all, so that a row's result does not depend on those beside it. Products
// of pairs in vectors (bf16.inl) would add in another order. sums [R][32] += x·w: in steps of 32 inputs, each a sum of its
// own that is then added.
//
// Layout: rows of x in order, [R][stride], zeros from the inputs to the end of a step. Weights [inputs][32] become pairs of
// inputs [inputs / 2][32][2], 512 inputs at a time, once for all rows of a segment, with zeros up to a whole step: 0 · 0 adds
// nothing to any sum.
//
// Bound: the products of amx_tiles.inl, 32 inputs a step, for which 32 vectors of weights are shuffled once for all rows. By
// count a single row has 2 products of 16 cycles a step where vectors have 32 products of pairs, and the same shuffles; it
// waits for memory.
// Reached: 512 rows of 4096 → 14336 23 % of the tiles' peak, two Emerald Rapids cores, 2026-11-30 (docs/performance.md).
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

constexpr int64_t tile_inputs = tile_depth / 2;

// w [inputs][32] to pairs [inputs / 2 up to a whole step][32][2].
void pair_inputs(const std::byte *w, int64_t inputs, std::byte *to) {
  constexpr int64_t line = tile_outputs * 2;
  const int64_t whole = (inputs + tile_inputs - 1) / tile_inputs * tile_inputs;
  for (int64_t k = 0; k < whole; k += 2, w += 2 * line, to += 2 * line) {
    linear::prefetch(w + prefetch_bytes);
    linear::prefetch(w + prefetch_bytes + line);
    Ints pairs[vectors];
    make_pairs(k < inputs ? load_ints(w) : zero_ints(), k + 1 < inputs ? load_ints(w + line) : zero_ints(), pairs);
    __builtin_memcpy(to, pairs, sizeof pairs);
  }
}

void bf16_tile(const Matrix &matrix, int64_t index, int64_t form, int64_t row_bytes, const RowBlock *blocks,
               int32_t count, float *widened, float *sums) {
  // One block alone waits for memory: its piece leaves room in the first-level cache, and is asked for while it is made.
  const int64_t piece = (count > 1 ? tile_piece_bytes : tile_piece_bytes / 2) / (tile_outputs * 2);
  const std::byte *const tile = matrix.tiles + index * matrix.tile_bytes;
  auto *const pairs = reinterpret_cast<std::byte *>(widened);
  BlockTiles<TileOperands::pairs> tiles(tile_depth);
  for (int64_t k = 0; k < matrix.in; k += piece) {
    const int64_t now = least(piece, matrix.in - k), steps = (now + tile_inputs - 1) / tile_inputs;
    const std::byte *const begin = tile + k * tile_outputs * 2;
    pair_inputs(begin, now, pairs);
    NextPiece ahead(begin, begin + now * tile_outputs * 2, steps * count);
    float *block_sums = sums;
    for (int32_t i = 0; i < count; ++i) {
      const TileRows x{blocks[i].form(form) + k * 2, row_bytes, tile_depth};
      tiles.multiply(pairs, steps, blocks[i].rows, x, block_sums, block_sums, [&] {
        if (count > 1) ahead.ask();
      });
      block_sums += blocks[i].rows * tile_outputs;
    }
    tiles.finish();
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
