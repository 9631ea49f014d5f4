// A tile of a dense bf16 matrix against rows rounded to bf16 where there are tile registers (simd/amx.h): one instruction makes
// the sums of all rows of a block; few rows go by amx_bf16_few.inl, which gives the same bits. (Products of pairs as bf16.inl
// makes them would add in another order.) sums [R][32] += x·w: in steps of 32 inputs, each a sum of its own that is then added.
//
// Layout: x [steps][R][32], zeros from the inputs to the end of a step. Weights [inputs][32] become pairs of
// inputs [inputs / 2][32][2], 512 inputs at a time, once for all rows of a segment, with zeros up to a whole step: 0 · 0 adds
// nothing to any sum.
//
// Bound: the products of amx_tiles.inl, 32 inputs a step, for which 32 vectors of weights are shuffled once for all rows.
// Reached: 512 rows of 4096 → 14336 23 % of the tiles' peak, two Emerald Rapids cores, 2026-11-30 (docs/performance.md).
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

constexpr int64_t tile_inputs = tile_depth / 2;
static_assert(tile_inputs == rounded_step);

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

// sums [R][32] += w · x, w [inputs][32]: fill(k, inputs, to) gives the pairs of a piece of it, packed(k) where that lies in
// memory.
template <typename Fill, typename Packed>
void pair_tiles(int64_t inputs, int64_t form, const RowBlock *blocks, int32_t count, float *widened, float *sums,
                const Fill &fill, const Packed &packed) {
  // One block alone waits for memory: its piece leaves room in the first-level cache, and is asked for while it is made.
  const int64_t piece = (count > 1 ? tile_piece_bytes : tile_piece_bytes / 2) / (tile_outputs * 2);
  auto *const pairs = reinterpret_cast<std::byte *>(widened);
  BlockTiles<TileOperands::pairs> tiles(tile_depth);
  for (int64_t k = 0; k < inputs; k += piece) {
    const int64_t now = least(piece, inputs - k), steps = (now + tile_inputs - 1) / tile_inputs;
    fill(k, now, pairs);
    NextPiece ahead(packed(k), packed(k + now), steps * count);
    float *block_sums = sums;
    for (int32_t i = 0; i < count; ++i) {
      const int64_t rows = blocks[i].rows;
      const TileRows x{blocks[i].form(form) + k * 2 * rows, tile_depth, tile_depth * rows};
      tiles.multiply(pairs, steps, rows, x, block_sums, block_sums, [&] {
        if (count > 1) ahead.ask();
      });
      block_sums += rows * tile_outputs;
    }
    tiles.finish();
  }
}

void bf16_tile(const Matrix &matrix, int64_t index, int64_t form, int64_t /* row_bytes */, const RowBlock *blocks,
               int32_t count, float *widened, float *sums) {
  const std::byte *const tile = matrix.tiles + index * matrix.tile_bytes;
  const auto packed = [tile](int64_t k) { return tile + k * tile_outputs * 2; };
  const auto in_tiles = [](const RowBlock &block) { return block.rows > most_few_rows; };
  for_tiled(blocks, count, sums, in_tiles, [&](const RowBlock *own, int32_t owned, bool tiles, float *own_sums) {
    if (tiles) {
      pair_tiles(
          matrix.in, form, own, owned, widened, own_sums,
          [&](int64_t k, int64_t inputs, std::byte *to) { pair_inputs(packed(k), inputs, to); }, packed);
      return;
    }
    const NoSubnormals here;
    for (int32_t i = 0; i < owned; ++i) {
      with_rows<most_few_rows>(own[i].rows,
                               [&]<int R>() { few_dense<R>(tile, matrix.in, own[i].form(form), own_sums); });
      own_sums += own[i].rows * tile_outputs;
    }
  });
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
