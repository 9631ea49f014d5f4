// A tile of a dense integer matrix against codes where there are tile registers (simd/amx.h): int8.inl's sums to the bit,
// for blocks of least_tile_rows rows or more: the int32 sums of a run are exact in any order, and integer_runs.inl scales
// them alike.
//
// Layout: codes of x are the signed operand, [inputs / depth][rows][depth] (kernels.h): a tile lies in one piece. The packed
// weights are the unsigned one as they are: a line is 16 outputs × 4 inputs. Nibbles are widened to bytes first, 512 inputs
// at a time, once for all rows of a segment.
//
// Bound: the products of amx_tiles.inl, 64 inputs a step. In groups of 128 inputs, two of these steps, 4 tiles of sums are
// stored and their 64 vectors scaled and added in f32.
// Not measured on a machine with AMX yet; proven by the twin.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Inputs whose codes, a byte each, fill the thread's piece of widened weights.
constexpr int64_t tile_piece = linear::widened_inputs * 4;

// [inputs / 8] steps of nibbles to [inputs / 4] steps of bytes.
void widen_to_bytes(const std::byte *codes, int64_t inputs, std::byte *to) {
  Ahead ahead{codes + prefetch_bytes, 128};
  for (int64_t k = 0; k < inputs; k += 8, codes += 128, to += 256) {
    ahead.step();
    Ints low[vectors], high[vectors];
    load_step<true, 0>(codes, low);
    load_step<true, 1>(codes, high);
    __builtin_memcpy(to, low, 128);
    __builtin_memcpy(to + 128, high, 128);
  }
}

// The products of tiles with consecutive blocks of a segment (integer_runs.inl).
class TileProduct : public SegmentProduct {
 public:
  TileProduct(const Matrix &matrix, int64_t form, const RowBlock *blocks, int32_t count, float *widened)
      : SegmentProduct(matrix, form, blocks, count),
        depth_(code_depth(matrix, blocks->rows)),
        tiles_(depth_),
        widened_(reinterpret_cast<std::byte *>(widened)) {}

  void run(const std::byte *codes, int64_t begin, int64_t inputs, int32_t *dots) {
    const int64_t piece = tile_piece / depth_ * depth_;
    for (int64_t k = 0; k < inputs; k += piece) {
      const int64_t now = least(piece, inputs - k);
      const std::byte *w = codes + k * tile_outputs;
      if (matrix_.store == MOE_I4) {
        widen_to_bytes(codes + k * tile_outputs / 2, now, widened_);
        w = widened_;
      }
      tiles_.run(w, now / depth_, count_, k == 0, dots, [&](int32_t i) {
        const int64_t rows = blocks_[i].rows;
        return TileRows{blocks_[i].form(form_) + (begin + k) * rows, rows, depth_, depth_ * rows};
      });
    }
  }

 private:
  int64_t depth_;
  BlockTiles<int32_t> tiles_;
  std::byte *widened_;
};

// All blocks of a segment: those of few rows as int8.inl has them.
void integer_tile(const Matrix &matrix, int64_t index, int64_t form, const RowBlock *blocks, int32_t count,
                  float *widened, float *sums) {
  const std::byte *const tile = matrix.tiles + index * matrix.tile_bytes;
  const auto tiled = [&](int32_t i) { return blocks[i].rows >= linear::least_tile_rows; };
  for (int32_t i = 0, end; i < count; i = end) {
    int64_t rows = 0;
    for (end = i; end < count && tiled(end) == tiled(i); ++end) rows += blocks[end].rows;
    if (tiled(i)) {
      TileProduct product(matrix, form, blocks + i, end - i, widened);
      add_integer_runs(matrix, tile, product, sums);
    } else {
      int8_tile(matrix, index, form, blocks + i, end - i, sums);
    }
    sums += rows * tile_outputs;
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
