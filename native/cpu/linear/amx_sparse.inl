// A tile of an n:m sparse part where there are tile registers (simd/amx.h): its values go, once for all rows of a segment, to
// the lanes of dense weights, and these are multiplied as amx.inl and amx_bf16.inl do it: the tiles make 32 and 16 times the
// products of vectors, and a look-up for each value would be all the time. sums [R][32] += S·x.
//
// Codes give sparse_int8.inl's sums to the bit, for blocks of least_tile_rows rows or more, and bf16 those of amx_bf16_few.inl.
//
// Layout: values and places, tile.h. Codes of x as those of a dense matrix of as many inputs; bf16, rounded (kernels.h).
// Bound: the products of the dense matrix; beside them, for each value, output and lane of its block an add, a shift and an or,
// and four instructions to take it out. Reached: see docs/performance.md, "Banks of parts on the cpu".
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// What holds the values of a tile, each `bits` wide, in lanes of 32 bits: inputs [k, end) of every output. block_lanes: lanes that
// each block of inputs has for itself, whose values meet in registers; 0: blocks of any size, whose values meet in memory.
template <int bits, int block_lanes>
class DenseLanes {
 public:
  // `bytes` of them, with what pads the last step.
  DenseLanes(const Sparse &sparse, int64_t k, int64_t end, std::byte *lanes, int64_t bytes)
      : k_(k), m_(sparse.m), count_((end - k + inputs - 1) / inputs), lanes_(lanes) {
    const int64_t filled = block_lanes > 0 ? count_ * lane_bytes : 0;
    __builtin_memset(lanes + filled, 0, static_cast<size_t>(bytes - filled));
  }
  // A value of every output, as the low bits of its lane, at a place in the block that starts at input `block`. place: times
  // `bits`. What lies outside [k, end) is left out. Blocks come in order.
  MOE_INLINE void put(int32_t block, const Ints (&value)[vectors], const Ints (&place)[vectors]) {
    const int64_t first = block - k_, at = first >> log_inputs;
    if constexpr (block_lanes > 0) {
      if (at < at_) return;  // what pads a group has block 0
      if (at > at_) {
        flush();
        at_ = at;
      }
#pragma GCC unroll 16
      for (int lane = 0; lane < block_lanes; ++lane)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v)
          held_[lane][v] = bit_or(held_[lane][v], shift_left(value[v], add(place[v], broadcast_ints(-32 * lane))));
    } else {
      const int64_t within = first & (inputs - 1), stop = least(count_, at + (within + m_ + inputs - 1) / inputs);
      for (int64_t lane = at < 0 ? 0 : at; lane < stop; ++lane) {
        const Ints from = broadcast_ints(static_cast<int32_t>((within - (lane - at) * inputs) * bits));
        std::byte *const to = lanes_ + lane * lane_bytes;
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
          const Ints held = bit_or(load_ints(to + v * width * 4), shift_left(value[v], add(place[v], from)));
          __builtin_memcpy(to + v * width * 4, &held, sizeof held);
        }
      }
    }
  }
  // Behind the last value.
  MOE_INLINE void flush() {
#pragma GCC unroll 16
    for (int lane = 0; lane < block_lanes; ++lane) {
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const int64_t to = at_ + lane;
        if (to >= 0 && to < count_)
          __builtin_memcpy(lanes_ + to * lane_bytes + v * width * 4, &held_[lane][v], sizeof(Ints));
        held_[lane][v] = zero_ints();
      }
    }
  }

 private:
  static constexpr int inputs = 32 / bits, log_inputs = bits == 8 ? 2 : 1;
  static constexpr int64_t lane_bytes = tile_outputs * 4;
  int64_t k_, m_, count_, at_ = -block_lanes;
  std::byte *lanes_;
  Ints held_[block_lanes > 0 ? block_lanes : 1][vectors] = {};
};

// body<block_lanes>()
template <int bits, typename Body>
MOE_INLINE void with_block_lanes(const Sparse &sparse, const Body &body) {
  const int64_t inputs = sparse.m * bits;
  if (inputs == 32) return body.template operator()<1>();
  if (inputs == 64) return body.template operator()<2>();
  if (inputs == 128) return body.template operator()<4>();
  body.template operator()<0>();
}

// The value, counted with what pads groups, that a block's first one is; k: an input of the block, or the inputs' end.
int64_t value_at(const Sparse &sparse, int64_t k) {
  const int64_t group = sparse.group ? k / sparse.group : 0, within = k - group * sparse.group;
  return least(sparse.values.padded, group * sparse.values.padded_group() + within / sparse.m * sparse.n);
}

// step(first value) for the steps of four that hold the values of inputs [k, end), and some before them.
template <typename Step>
MOE_INLINE void for_steps(const Sparse &sparse, int64_t k, int64_t end, const Step &step) {
  const int64_t stop = value_at(sparse, end + sparse.m - 1);
  for (int64_t at = value_at(sparse, k) / 4 * 4; at < stop; at += 4) step(at);
}

// The codes of a tile as operands (DenseCodes).
template <bool nibbles>
class SparseCodes {
 public:
  static constexpr TileOperands operands = TileOperands::bytes;
  static constexpr int above = 0;
  static constexpr bool offsets = false;

  SparseCodes(const Sparse &sparse, int64_t tile) : sparse_(sparse), matrix_(sparse.dense()), runs_(sparse, tile) {}

  const Matrix &matrix() const { return matrix_; }
  int64_t run() const { return matrix_.run(); }
  const std::byte *packed(int64_t k) const { return runs_.codes(value_at(sparse_, k) / 8 * 8); }
  void widen(int64_t k, int64_t end, std::byte *to) const {
    with_block_lanes<8>(sparse_, [&]<int block_lanes>() {
      DenseLanes<8, block_lanes> lanes(sparse_, k, end, to, (end - k) * tile_outputs);
      SparseRuns<nibbles, 0> runs = runs_;
      const int64_t group = matrix_.group ? matrix_.group : matrix_.padded;
      for (int64_t begin = k, next; begin < end; begin = next) {
        next = least(end, (begin / group + 1) * group);
        runs.enter(value_at(sparse_, begin));
        for_steps(sparse_, begin, next, [&](int64_t at) { put(runs, at, lanes); });
      }
      lanes.flush();
    });
  }
  const std::byte *operand(const std::byte *widened, int64_t /* k */, int64_t more) const {
    return widened + more * tile_outputs;
  }
  MOE_INLINE void factors(int64_t group, float *to) const {
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(to + v * width, runs_.scale(group, v));
  }

 private:
  // The four values from `at` on.
  template <typename Lanes>
  MOE_INLINE void put(const SparseRuns<nibbles, 0> &runs, int64_t at, Lanes &lanes) const {
    const SparseStep step = runs.step(at);
    const auto put_value = [&]<int j>() {
      Ints value[vectors], place[vectors];
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v)
        value[v] = byte_times<j, 0>(step.codes[v]), place[v] = byte_times<j, 3>(step.place[v]);
      lanes.put(runs.blocks(at)[j], value, place);
    };
    put_value.template operator()<0>();
    put_value.template operator()<1>();
    put_value.template operator()<2>();
    put_value.template operator()<3>();
  }

  const Sparse &sparse_;
  Matrix matrix_;
  SparseRuns<nibbles, 0> runs_;
};

// The bf16 values of a tile among inputs [k, k + inputs), as pair_inputs makes them.
void spread_pairs(const Sparse &sparse, int64_t tile, int64_t k, int64_t inputs, std::byte *to) {
  const std::byte *const values = sparse.values.tiles + tile * sparse.values.tile_bytes;
  const Places places(sparse, tile);
  const int64_t whole = (inputs + tile_inputs - 1) / tile_inputs * tile_inputs;
  with_block_lanes<16>(sparse, [&]<int block_lanes>() {
    DenseLanes<16, block_lanes> lanes(sparse, k, k + inputs, to, whole * tile_outputs * 2);
    for_steps(sparse, k, k + inputs, [&](int64_t at) {
      places.ask(at / 4);
      const auto put = [&]<int j>() {
        const std::byte *const line = values + (at + j) * tile_outputs * 2;
        linear::prefetch(line + prefetch_bytes);
        Ints value[vectors], place[vectors];
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v)
          value[v] = load_words(line + v * width * 2), place[v] = byte_times<j, 4>(places.step(at / 4, v));
        lanes.put(sparse.blocks[at + j], value, place);
      };
      put.template operator()<0>();
      put.template operator()<1>();
      put.template operator()<2>();
      put.template operator()<3>();
    });
    lanes.flush();
  });
}

// Few rows, and blocks with a row that is not finite: 0 · ∞ is not 0.
void sparse_few(const Sparse &sparse, int64_t index, const linear::Forms &forms, const RowBlock *blocks, int32_t count,
                float *sums) {
  const NoSubnormals here;
  constexpr int64_t row_bytes = rounded_step * 2;
  for (int32_t i = 0; i < count; ++i) {
    const std::byte *const x = blocks[i].form(forms.rounded);
    for (int32_t r = 0, now; r < blocks[i].rows; r += now, sums += now * tile_outputs) {
      now = static_cast<int32_t>(least(most_few_rows, blocks[i].rows - r));
      with_rows<most_few_rows>(
          now, [&]<int R>() { few_sparse<R>(sparse, index, x + r * row_bytes, blocks[i].rows * row_bytes, sums); });
    }
  }
}

void sparse_tiles_bf16(const Sparse &sparse, int64_t index, const linear::Forms &forms, const RowBlock *blocks,
                       int32_t count, float *widened, float *sums) {
  const auto in_tiles = [&](const RowBlock &block) {
    return block.rows > most_few_rows && linear::not_finite(forms, block) == 0;
  };
  for_tiled(blocks, count, sums, in_tiles, [&](const RowBlock *own, int32_t owned, bool tiles, float *own_sums) {
    if (!tiles) return sparse_few(sparse, index, forms, own, owned, own_sums);
    pair_tiles(
        sparse.in, forms.rounded, own, owned, widened, own_sums,
        [&](int64_t k, int64_t inputs, std::byte *to) { spread_pairs(sparse, index, k, inputs, to); },
        [&](int64_t k) {
          return sparse.values.tiles + index * sparse.values.tile_bytes + value_at(sparse, k) * tile_outputs * 2;
        });
  });
}

template <bool nibbles>
void sparse_tiles_int8(const Sparse &sparse, int64_t index, const linear::Forms &forms, const RowBlock *blocks,
                       int32_t count, float *widened, float *sums) {
  for_tiled(blocks, count, sums, codes_in_tiles, [&](const RowBlock *own, int32_t owned, bool tiles, float *own_sums) {
    if (!tiles) return sparse_int8_blocks<nibbles>(sparse, index, forms, own, owned, widened, own_sums);
    const SparseCodes<nibbles> codes(sparse, index);
    TileProduct(codes, forms.sparse, own, owned, widened).add(own_sums);
  });
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
