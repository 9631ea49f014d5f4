// A tile of a dense integer matrix against codes where there are tile registers (simd/amx.h): int8.inl's sums to the bit,
// for blocks of least_tile_rows rows or more. The int32 sums of a run are exact in any order, and what follows them is
// int8.inl's.
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

// The products of consecutive blocks of a segment with one tile of a matrix.
class TileProduct {
 public:
  TileProduct(const Matrix &matrix, int64_t form, const RowBlock *blocks, int32_t count, float *widened)
      : matrix_(matrix),
        form_(form),
        blocks_(blocks),
        count_(count),
        depth_(code_depth(matrix, blocks->rows)),
        tiles_(depth_),
        widened_(reinterpret_cast<std::byte *>(widened)) {}

  // dots [rows of the blocks][32] = Σ codes of w (as they are stored: + 8 or + 128) · codes of x over `inputs` inputs from
  // `begin` on; `codes`: of w, from there on.
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

  // body(row of the sums, step, Σ codes of x) for each row, of run `index`.
  template <typename Body>
  MOE_INLINE void for_rows(int64_t index, const Body &body) const {
    int64_t row = 0;
    for (int32_t i = 0; i < count_; ++i) {
      const int32_t rows = blocks_[i].rows;
      const auto *const steps = reinterpret_cast<const float *>(blocks_[i].form(form_) + matrix_.padded * rows);
      const auto *const code_sums = reinterpret_cast<const int32_t *>(steps + matrix_.runs() * rows);
      for (int32_t r = 0; r < rows; ++r) body(row++, steps[index * rows + r], code_sums[index * rows + r]);
    }
  }

 private:
  const Matrix &matrix_;
  int64_t form_;
  const RowBlock *blocks_;
  int32_t count_;
  int64_t depth_;
  BlockTiles<int32_t> tiles_;
  std::byte *widened_;
};

// sums [rows][32] += Σ over runs of step · (scale · Σ code_w·code_x − offset · Σ code_x)
template <bool offsets>
void tile_runs(const Matrix &matrix, const std::byte *tile, TileProduct &product, float *sums) {
  alignas(64) int32_t dots[linear::segment_rows * tile_outputs];
  const GroupLayout layout(matrix);
  const int32_t above = matrix.store == MOE_I4 ? 8 : 128;  // what stored codes are above the true ones
  for (int64_t b = 0; b < matrix.runs(); ++b) {
    const int64_t group = matrix.group ? b : 0, begin = b * matrix.run();
    const std::byte *codes = layout.codes(tile, group);
    if (!matrix.group) codes += begin * tile_outputs / (matrix.store == MOE_I4 ? 2 : 1);
    product.run(codes, begin, least(matrix.run(), matrix.padded - begin), dots);
    Vec scale[vectors], offset[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) scale[v] = layout.scale(tile, group, v);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) offset[v] = offsets ? layout.offset(tile, group, v) : zero();
    product.for_rows(b, [&](int64_t row, float step, int32_t code_sum) {
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const int64_t at = row * tile_outputs + v * width;
        add_scaled<offsets>(sums + at, broadcast(step), scale[v], offset[v],
                            sub(load_ints(dots + at), broadcast_ints(above * code_sum)), code_sum);
      }
    });
  }
}

// The same under an outer scale, as dual_block.
void tile_dual(const Matrix &matrix, const std::byte *tile, TileProduct &product, float *sums) {
  alignas(64) int32_t dots[linear::segment_rows * tile_outputs];
  alignas(64) int32_t totals[linear::segment_rows * tile_outputs];
  const GroupLayout layout(matrix);
  const int64_t runs = matrix.runs(), most = channel_run / matrix.group;
  for (int64_t b = 0; b < runs; ++b) {
    const int64_t begin = b * matrix.group;
    product.run(layout.codes(tile, b), begin, least(matrix.group, matrix.padded - begin), dots);
    const bool first = b % most == 0, last = b % most == most - 1 || b == runs - 1;
    product.for_rows(b, [&](int64_t row, float step, int32_t code_sum) {
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const int64_t at = row * tile_outputs + v * width;
        const Ints above = broadcast_ints(8 * code_sum);
        Ints total = mul(layout.inner(tile, b, v), sub(load_ints(dots + at), above));
        if (!first) total = add(load_ints(totals + at), total);
        __builtin_memcpy(totals + at, &total, sizeof total);
        if (last) {
          const Vec value = mul(layout.outer(tile, v), to_float(total));
          store(sums + at, fma(broadcast(step), value, load(sums + at)));
        }
      }
    });
  }
}

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
      if (matrix.outer >= 0) {
        tile_dual(matrix, tile, product, sums);
      } else if (matrix.offset >= 0) {
        tile_runs<true>(matrix, tile, product, sums);
      } else {
        tile_runs<false>(matrix, tile, product, sums);
      }
    } else {
      int8_tile(matrix, index, form, blocks + i, end - i, sums);
    }
    sums += rows * tile_outputs;
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
