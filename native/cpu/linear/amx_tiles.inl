// A piece of weights against the blocks of a segment in tile registers (simd/amx.h), for codes (amx.inl) and bf16
// (amx_bf16.inl): blocks go two by two, so that each tile of weights that is loaded meets both.
//
// Layout: weights in steps of [depth / 4][32] lanes of four bytes, so every other line of 16 lanes is a row of a tile. Rows of
// x lie as TileRows says. Registers: 0 – 3 sums of two blocks × two halves of the outputs, 4 and 5 rows of x, 6 and 7 weights.
//
// Bound, by Intel's optimization manual, for a step of 64 bytes, 32 rows and 32 outputs: 4 products of 16 cycles, in bytes
// 131072 operations and in bf16 half as many; 4 tiles of 1 KB loaded, 8 cycles each from the first-level cache. A product's
// sums are there after 52 cycles, so there are four chains of them; a block without a partner has two.
#include <type_traits>

#include "linear/kernels.h"
#include "simd/amx.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Rows of a block; `depth` bytes of each meet a step of weights.
struct TileRows {
  const std::byte *first;               // of row 0, in the first step
  int64_t rows, row_bytes, step_bytes;  // bytes from row to row, and from step to step
};

// Sum: int32_t, of products of bytes, or float, of pairs of bf16.
template <typename Sum>
class BlockTiles {
 public:
  explicit BlockTiles(int64_t depth) : depth_(depth) {}

  // sums [rows of the blocks][32], from 0 where `first`, += `steps` steps of w · x; rows_of(i): the TileRows of block i.
  template <typename RowsOf>
  MOE_INLINE void run(const std::byte *w, int64_t steps, int32_t count, bool first, Sum *sums, const RowsOf &rows_of) {
    for (int32_t i = 0; i < count; i += 2) {
      const TileRows x = rows_of(i);
      if (i + 1 < count) {
        const TileRows partner = rows_of(i + 1);
        multiply<2>(w, steps, x, partner, first, sums);
        sums += (x.rows + partner.rows) * tile_outputs;
      } else {
        multiply<1>(w, steps, x, {}, first, sums);
      }
    }
  }

 private:
  static constexpr int64_t sums_stride = tile_outputs * 4;

  void configure(int64_t rows, int64_t partner_rows) {
    rows_ = rows;
    partner_rows_ = partner_rows;
    TileShapes shapes;
    for (int half = 0; half < 2; ++half) {
      shapes.set(half, rows, tile_depth);
      shapes.set(2 + half, partner_rows, partner_rows > 0 ? tile_depth : 0);
      shapes.set(6 + half, depth_ / 4, tile_depth);
    }
    shapes.set(4, rows, depth_);
    shapes.set(5, partner_rows, partner_rows > 0 ? depth_ : 0);
    tiles_.configure(shapes);
  }

  template <int c, int a, int b>
  MOE_INLINE void product() {
    if constexpr (std::is_same_v<Sum, float>) {
      tiles_.template multiply_pairs<c, a, b>();
    } else {
      tiles_.template multiply<c, a, b>();
    }
  }

  // One block or two.
  template <int blocks>
  void multiply(const std::byte *w, int64_t steps, TileRows x, TileRows partner, bool first, Sum *sums) {
    constexpr bool pair = blocks == 2;
    Sum *const partner_sums = sums + x.rows * tile_outputs;
    if (x.rows != rows_ || (pair && partner.rows != partner_rows_)) configure(x.rows, partner.rows);
    if (first) {
      tiles_.template zero<0>();
      tiles_.template zero<1>();
      if constexpr (pair) tiles_.template zero<2>();
      if constexpr (pair) tiles_.template zero<3>();
    } else {
      tiles_.template load<0>(sums, sums_stride);
      tiles_.template load<1>(sums + 16, sums_stride);
      if constexpr (pair) tiles_.template load<2>(partner_sums, sums_stride);
      if constexpr (pair) tiles_.template load<3>(partner_sums + 16, sums_stride);
    }
    for (int64_t step = 0; step < steps; ++step, w += depth_ * tile_outputs) {
      tiles_.template load<6>(w, 128);
      tiles_.template load<4>(x.first + step * x.step_bytes, x.row_bytes);
      product<0, 4, 6>();
      tiles_.template load<7>(w + 64, 128);
      product<1, 4, 7>();
      if constexpr (pair) {
        tiles_.template load<5>(partner.first + step * partner.step_bytes, partner.row_bytes);
        product<2, 5, 6>();
        product<3, 5, 7>();
      }
    }
    tiles_.template store<0>(sums, sums_stride);
    tiles_.template store<1>(sums + 16, sums_stride);
    if constexpr (pair) tiles_.template store<2>(partner_sums, sums_stride);
    if constexpr (pair) tiles_.template store<3>(partner_sums + 16, sums_stride);
  }

  Tiles tiles_;
  int64_t depth_, rows_ = 0, partner_rows_ = 0;  // rows of the configured tiles
};

}  // namespace
}  // namespace moe::cpu::MOE_ISA
