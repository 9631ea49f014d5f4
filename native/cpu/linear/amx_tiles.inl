// A piece of weights against the blocks of a segment in tile registers (simd/amx.h), for codes (amx.inl) and bf16
// (amx_bf16.inl): a block has up to 32 rows, so that each tile of weights that is loaded meets two of its tiles.
//
// Layout: weights in steps of [depth / 4][32] lanes of four bytes, so every other line of 16 lanes is a row of a tile. Rows of
// x lie as TileRows says. Registers: 0 – 3 sums of two tiles of rows × two halves of the outputs, 4 and 5 rows of x, 6 and 7
// weights.
//
// Bound, for a step of 64 bytes, 32 rows and 32 outputs: 4 products of 16 cycles, in bytes 131072 operations and in bf16 half as
// many; 4 tiles of 1 KB loaded, 8 cycles each from the first-level cache, beside them. A product's sums are there after 52
// cycles, so there are four chains of them; rows without a second tile have two.
//
// Seen on Emerald Rapids, 2026-11-30, in loops of these instructions alone: 0.94 of products without loads, with 1024 bytes of
// weights an output in the first-level cache and rows from the second. Two things make it so. Sums that are stored at once hold
// the units up until the last product is done (0.78): here each is stored just before its register starts on the next block. And
// rows read as other data push the weights out (0.66): they are loaded as what is read once. The layers reach less: kernels.inl.
#include <type_traits>

#include "linear/kernels.h"
#include "simd/amx.h"

namespace moe::cpu::MOE_ISA {
namespace {

constexpr int block_rows = 2 * tile_rows;
constexpr int64_t tile_piece_bytes = 32 << 10;  // of weights that all blocks meet before the next
// Rows that a tile of weights meets when it was read: at 20 GB/s a core waits as long for it as for its products with 160.
constexpr int tile_segment_rows = 512;

// Rows of a block; `depth` bytes of each meet a step of weights.
struct TileRows {
  const std::byte *first;         // of row 0, in the first step
  int64_t row_bytes, step_bytes;  // bytes from row to row, and from step to step
};

// The packed weights behind a piece, asked of memory while products with that piece are made.
class NextPiece {
 public:
  // As many bytes behind `end` as the piece has from `begin` on, in `turns` turns.
  NextPiece(const std::byte *begin, const std::byte *end, int64_t turns)
      : at_(end), stop_(end + (end - begin)), turn_bytes_(((end - begin) / turns + 64) / 64 * 64) {}
  MOE_INLINE void ask() {
    const std::byte *const stop = at_ + turn_bytes_ < stop_ ? at_ + turn_bytes_ : stop_;
    for (; at_ < stop; at_ += 64) linear::prefetch(at_);
  }

 private:
  const std::byte *at_, *stop_;
  int64_t turn_bytes_;
};

// body(blocks, their count, whether `tiled` says so of each, their sums)
template <typename Tiled, typename Body>
MOE_INLINE void for_tiled(const RowBlock *blocks, int32_t count, float *sums, const Tiled &tiled, const Body &body) {
  for (int32_t i = 0, end; i < count; i = end) {
    const bool tiles = tiled(blocks[i]);
    int64_t rows = 0;
    for (end = i; end < count && tiled(blocks[end]) == tiles; ++end) rows += blocks[end].rows;
    body(blocks + i, end - i, tiles, sums);
    sums += rows * tile_outputs;
  }
}

enum class TileOperands { bytes, unsigned_weights, pairs };  // signed bytes, signed rows with unsigned weights, or bf16

template <TileOperands operands>
class BlockTiles {
 public:
  using Sum = std::conditional_t<operands == TileOperands::pairs, float, int32_t>;

  explicit BlockTiles(int64_t depth) : depth_(depth) {}

  // to [rows][32] = from (null: zeros) + `steps` steps of w · x. It is there once the next product has begun, or `finish` was
  // called. beside() is called at the end of each step: what the product before left is there by then.
  template <typename Beside>
  void multiply(const std::byte *w, int64_t steps, int64_t rows, const TileRows &x, const Sum *from, Sum *to,
                const Beside &beside) {
    if (rows != rows_) configure(rows);
    if (rows > tile_rows) {
      run<true>(w, steps, x, from, beside);
    } else {
      run<false>(w, steps, x, from, beside);
    }
    held_ = to;
  }
  void finish() {
    if (!held_) return;
    put<0>();
    put<1>();
    if (rows_ > tile_rows) put<2>();
    if (rows_ > tile_rows) put<3>();
    held_ = nullptr;
  }

 private:
  static constexpr int64_t sums_stride = tile_outputs * 4;

  void configure(int64_t rows) {
    finish();
    rows_ = rows;
    const int64_t second = rows > tile_rows ? rows - tile_rows : 0;
    TileShapes shapes;
    for (int half = 0; half < 2; ++half) {
      shapes.set(half, rows - second, tile_depth);
      shapes.set(2 + half, second, second > 0 ? tile_depth : 0);
      shapes.set(6 + half, depth_ / 4, tile_depth);
    }
    shapes.set(4, rows - second, depth_);
    shapes.set(5, second, second > 0 ? depth_ : 0);
    tiles_.configure(shapes);
  }

  // Sums t of a block, from where they lie among the others.
  template <int t>
  static constexpr int64_t place = t / 2 * tile_rows * tile_outputs + t % 2 * 16;
  template <int t>
  MOE_INLINE void put() const {
    tiles_.template store<t>(held_ + place<t>, sums_stride);
  }
  template <int t>
  MOE_INLINE void start(const Sum *from) {
    if (held_) put<t>();
    if (from) {
      tiles_.template load<t>(from + place<t>, sums_stride);
    } else {
      tiles_.template zero<t>();
    }
  }

  template <int c, int a, int b>
  MOE_INLINE void product() {
    if constexpr (operands == TileOperands::pairs) {
      tiles_.template multiply_pairs<c, a, b>();
    } else if constexpr (operands == TileOperands::unsigned_weights) {
      tiles_.template multiply_unsigned<c, a, b>();
    } else {
      tiles_.template multiply<c, a, b>();
    }
  }

  template <bool second, typename Beside>
  void run(const std::byte *w, int64_t steps, const TileRows &x, const Sum *from, const Beside &beside) {
    const std::byte *first_rows = x.first, *second_rows = x.first + tile_rows * x.row_bytes;
    for (int64_t step = 0; step < steps; ++step, w += depth_ * tile_outputs) {
      const auto begin = [&]<int t>() {
        if (step == 0) start<t>(from);
      };
      tiles_.template load<6>(w, 128);
      tiles_.template load_once<4>(first_rows, x.row_bytes);
      begin.template operator()<0>();
      product<0, 4, 6>();
      tiles_.template load<7>(w + 64, 128);
      begin.template operator()<1>();
      product<1, 4, 7>();
      if constexpr (second) {
        tiles_.template load_once<5>(second_rows, x.row_bytes);
        begin.template operator()<2>();
        product<2, 5, 6>();
        begin.template operator()<3>();
        product<3, 5, 7>();
      }
      beside();
      first_rows += x.step_bytes;
      second_rows += x.step_bytes;
    }
  }

  Tiles tiles_;
  int64_t depth_, rows_ = 0;  // rows of the configured tiles
  Sum *held_ = nullptr;       // where the sums in the registers belong
};

}  // namespace
}  // namespace moe::cpu::MOE_ISA
