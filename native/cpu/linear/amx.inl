// A tile of a dense integer matrix against codes where there are tile registers (simd/amx.h): int8.inl's sums to the bit,
// for blocks of least_tile_rows rows or more: the int32 sums of a run are exact in any order, and its scale meets them alike.
//
// Layout: codes of x, [inputs / depth][rows][depth] (kernels.h), so a tile lies in one piece. Codes of 8 bits are operands as they
// are packed (tile.h). Those of 4 become signed bytes in the same lanes, times the inner scale where there is one: what is left
// of such a matrix is one run. That is done piece by piece, once for all rows of a segment: 1024 inputs where a run is longer
// than that, whose int32 sums then wait in memory, else whole runs in half as many, as sums in f32 share the first-level cache
// with them.
//
// Bound: the products of amx_tiles.inl, 64 inputs a step. In groups of 128 inputs, two of these steps, 64 rows of tiles are
// stored and read again as vectors, converted, scaled and added in f32 between the products of the next group: beside 128 cycles
// of products 192 instructions on two ports, and, at one a cycle, 192 lines written into the first-level cache (the sums, theirs
// in f32, and the rows of x). Seen on Emerald Rapids, 2026-11-30, in loops of these instructions alone: 0.56 of the products.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// The nibbles of `inputs` inputs, from a multiple of 8 on, as signed bytes [inputs / 4][32][4].
template <bool scaled>
void widen_to_bytes(const std::byte *codes, int64_t inputs, const Ints (&scale)[vectors], std::byte *to) {
  const Ints above = broadcast_ints(0x08080808);
  const auto put = [&]<int half>() {
    Ints w[vectors];
    load_step<true, half>(codes, w);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      w[v] = sub_bytes(w[v], above);
      if constexpr (scaled) w[v] = mul_bytes(w[v], scale[v]);
    }
    __builtin_memcpy(to, w, sizeof w);
    to += sizeof w;
  };
  for (int64_t k = 0; k < inputs; k += 8, codes += 128) {
    put.template operator()<0>();
    put.template operator()<1>();
  }
}

// The sums of a run of a block, which are added to its f32 sums little by little. above: what the codes of weights were above the
// true ones.
template <bool offsets, int above>
class RunSums {
 public:
  // factors: of DenseCodes.
  void begin(const int32_t *dots, int64_t rows, const float *factors, const float *steps, const int32_t *code_sums,
             float *sums) {
    dots_ = dots, rows_ = rows, factors_ = factors, steps_ = steps, code_sums_ = code_sums, sums_ = sums;
    row_ = 0;
  }
  int64_t left() const { return rows_ - row_; }
  // On its own: its registers are not those of the loop around it.
  [[gnu::noinline]] void add(int64_t rows) {
    const int64_t stop = least(rows_, row_ + rows);
    if (row_ == stop) return;
    Vec scale[vectors], offset[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      scale[v] = load(factors_ + v * width);
      offset[v] = offsets ? load(factors_ + tile_outputs + v * width) : zero();
    }
    const float *const steps = steps_;
    const int32_t *const code_sums = code_sums_, *dots = dots_ + row_ * tile_outputs;
    float *sums = sums_ + row_ * tile_outputs;
    for (int64_t row = row_; row < stop; ++row, dots += tile_outputs, sums += tile_outputs) {
      const Vec step = broadcast(steps[row]);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        Ints sum = load_ints(dots + v * width);
        if constexpr (above > 0) sum = sub(sum, broadcast_ints(above * code_sums[row]));
        add_scaled<offsets>(sums + v * width, step, scale[v], offset[v], sum, offsets ? code_sums[row] : 0);
      }
    }
    row_ = stop;
  }

 private:
  const int32_t *dots_ = nullptr;
  int64_t rows_ = 0, row_ = 0;
  const float *factors_ = nullptr, *steps_ = nullptr;
  const int32_t *code_sums_ = nullptr;
  float *sums_ = nullptr;
};

// The codes of a dense tile as operands, and what scales their sums.
template <bool nibbles, bool dual, bool offset>
class DenseCodes {
 public:
  static constexpr TileOperands operands = nibbles ? TileOperands::bytes : TileOperands::unsigned_weights;
  static constexpr int above = nibbles ? 0 : 128;
  static constexpr bool offsets = offset;

  DenseCodes(const Matrix &matrix, const std::byte *tile) : matrix_(matrix), layout_(matrix), tile_(tile) {}

  const Matrix &matrix() const { return matrix_; }
  int64_t run() const { return dual ? channel_run : matrix_.run(); }
  // Packed, from input k on.
  const std::byte *packed(int64_t k) const {
    const int64_t group = matrix_.group ? k / matrix_.group : 0;
    return layout_.codes(tile_, group) + (k - group * matrix_.group) * tile_outputs / (nibbles ? 2 : 1);
  }
  // Inputs [k, end) as operands, in `to`; those of 8 bits are left where they are packed.
  void widen(int64_t k, int64_t end, std::byte *to) const {
    if constexpr (!nibbles) return;
    const int64_t group = matrix_.group ? matrix_.group : channel_run;
    Ints inner[vectors] = {};
    for (int64_t begin = k, next; begin < end; begin = next) {
      const int64_t index = begin / group;
      next = least(end, (index + 1) * group);
      if constexpr (dual) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) inner[v] = byte_factors(layout_.inner(tile_, index, v));
      }
      widen_to_bytes<dual>(packed(begin), next - begin, inner, to + (begin - k) * tile_outputs);
    }
  }
  // The operands from input k + more on, where those from k on were widened to `widened`.
  const std::byte *operand(const std::byte *widened, int64_t k, int64_t more) const {
    return nibbles ? widened + more * tile_outputs : packed(k + more);
  }
  // Of a group: scale[32], then offset[32] if there are offsets.
  MOE_INLINE void factors(int64_t group, float *to) const {
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      store(to + v * width, dual ? layout_.outer(tile_, v) : layout_.scale(tile_, group, v));
      if constexpr (offsets) store(to + tile_outputs + v * width, layout_.offset(tile_, group, v));
    }
  }

 private:
  const Matrix &matrix_;
  GroupLayout layout_;
  const std::byte *tile_;
};

// Codes, as DenseCodes has them, against consecutive blocks of a segment.
template <typename Codes>
class TileProduct {
 public:
  TileProduct(const Codes &codes, int64_t form, const RowBlock *blocks, int32_t count, float *widened)
      : codes_(codes),
        matrix_(codes.matrix()),
        form_(form),
        blocks_(blocks),
        count_(count),
        depth_(code_depth(matrix_, blocks->rows)),
        run_(codes.run()),
        tiles_(depth_),
        widened_(reinterpret_cast<std::byte *>(widened)),
        dots_(reinterpret_cast<int32_t *>(widened + tile_piece_bytes / 4)) {}

  // sums [rows of the blocks][32] += w · x
  void add(float *sums) {
    constexpr int64_t longest = tile_piece_bytes / tile_outputs, several = longest / 2;
    const int64_t longest_piece = longest / depth_ * depth_;
    for (int64_t k = 0; k < matrix_.padded;) {
      const int64_t run_end = least(matrix_.padded, (k / run_ + 1) * run_);
      const int64_t end =
          run_ <= several ? least(matrix_.padded, k + several / run_ * run_) : least(run_end, k + longest_piece);
      codes_.widen(k, end, widened_);
      put_factors(k, end);
      multiply(k, end, NextPiece(codes_.packed(k), codes_.packed(end), (end - k) / depth_ * count_), sums);
      k = end;
    }
  }

 private:
  void put_factors(int64_t k, int64_t end) {
    float *to = factors_;
    for (int64_t begin = k; begin < end; begin = (begin / run_ + 1) * run_, to += run_factors)
      codes_.factors(matrix_.group ? begin / run_ : 0, to);
  }

  // Inputs [k, end) against all blocks.
  void multiply(int64_t k, int64_t end, NextPiece ahead, float *sums) {
    const bool whole = end - k >= least(run_, matrix_.padded - k) && k % run_ == 0;
    int32_t *waiting = dots_;  // of the block
    for (int32_t i = 0; i < count_; ++i) {
      const int64_t rows = blocks_[i].rows;
      const std::byte *const x = blocks_[i].form(form_);
      const auto *const steps = reinterpret_cast<const float *>(x + matrix_.padded * rows);
      const auto *const code_sums = reinterpret_cast<const int32_t *>(steps + matrix_.runs() * rows);
      const float *factors = factors_;
      for (int64_t begin = k, next; begin < end; begin = next, factors += run_factors) {
        const int64_t run = begin / run_, run_end = least(matrix_.padded, (run + 1) * run_);
        next = least(end, run_end);
        int32_t *const dots = whole ? dots_ : waiting;
        const int64_t depths = (next - begin) / depth_, slice = (left_.left() + depths - 1) / depths;
        const std::byte *const w = codes_.operand(widened_, k, begin - k);
        tiles_.multiply(w, depths, rows, {x + begin * rows, depth_, depth_ * rows}, begin % run_ == 0 ? nullptr : dots,
                        dots, [&] {
                          ahead.ask();
                          left_.add(slice);
                        });
        if (next == run_end) left_.begin(dots, rows, factors, steps + run * rows, code_sums + run * rows, sums);
      }
      waiting += rows * tile_outputs;
      sums += rows * tile_outputs;
    }
    tiles_.finish();
    left_.add(left_.left());
  }

  // Of a run; runs have 8 inputs at least.
  static constexpr int64_t run_factors = tile_outputs * (Codes::offsets ? 2 : 1);

  const Codes &codes_;
  const Matrix &matrix_;
  int64_t form_;
  const RowBlock *blocks_;
  int32_t count_;
  int64_t depth_, run_;
  BlockTiles<Codes::operands> tiles_;
  RunSums<Codes::offsets, Codes::above> left_;
  std::byte *widened_;
  int32_t *dots_;
  alignas(64) float factors_[tile_piece_bytes / tile_outputs / 2 / 8 * run_factors];
};

MOE_INLINE bool codes_in_tiles(const RowBlock &block) { return block.rows >= linear::least_tile_rows; }

template <bool nibbles, bool dual, bool offsets>
void add_tile_product(const Matrix &matrix, const std::byte *tile, int64_t form, const RowBlock *blocks, int32_t count,
                      float *widened, float *sums) {
  const DenseCodes<nibbles, dual, offsets> codes(matrix, tile);
  TileProduct(codes, form, blocks, count, widened).add(sums);
}

// All blocks of a segment: those of few rows as int8.inl has them.
void integer_tile(const Matrix &matrix, int64_t index, int64_t form, const RowBlock *blocks, int32_t count,
                  float *widened, float *sums) {
  const std::byte *const tile = matrix.tiles + index * matrix.tile_bytes;
  const bool nibbles = matrix.store == MOE_I4, offsets = matrix.offset >= 0;
  const auto product = matrix.outer >= 0 ? add_tile_product<true, true, false>
                       : nibbles
                           ? (offsets ? add_tile_product<true, false, true> : add_tile_product<true, false, false>)
                       : offsets ? add_tile_product<false, false, true>
                                 : add_tile_product<false, false, false>;
  for_tiled(blocks, count, sums, codes_in_tiles, [&](const RowBlock *own, int32_t owned, bool tiles, float *own_sums) {
    if (tiles) {
      product(matrix, tile, form, own, owned, widened, own_sums);
    } else {
      int8_tile(matrix, index, form, own, owned, own_sums);
    }
  });
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
