// A tile of an n:m sparse part of bf16 against rows rounded to bf16 (sparse.inl), where a set has their products: two values
// of each output meet the two inputs that their places pick from a window of the row. x [R][stride], zeros behind its inputs.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

#if defined(MOE_BF16_PAIRS)
// Two values of each output, and where their inputs lie in the window that starts at `start`.
struct SparsePair {
  Ints place[vectors], value[vectors];
};

// Takes the values of a tile apart.
class SparsePairs {
 public:
  MOE_INLINE SparsePairs(const Sparse &sparse, int64_t tile)
      : sparse_(sparse), tile_(sparse.values.tiles + tile * sparse.values.tile_bytes), places_(sparse, tile) {}

  // Values k and k + 1, k even. start: the first input that they may need; a whole window's first where they all lie in it.
  MOE_INLINE SparsePair at(int64_t k, int32_t *start) const {
    const int32_t first = sparse_.blocks[k];
    // A last value alone meets the zero behind the inputs.
    const bool alone = k + 1 == sparse_.values.in;
    const int32_t second = alone ? static_cast<int32_t>(sparse_.in) : sparse_.blocks[k + 1];
    const int32_t over = first % linear::pair_window;
    const bool within = over + (alone ? second - first + 1 : sparse_.pair_reach) <= linear::pair_window;
    *start = within ? first - over : first;
    const Ints begin = broadcast_ints((first - *start) | (second - *start) << 16);
    const Ints mask = broadcast_ints(alone ? 0xff : 0x00ff00ff);
    SparsePair pair;
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Ints places = shift_right(places_.step(k / 4, v), static_cast<int>(k & 2) * 8);
      const Ints apart =
          add(bit_and(places, broadcast_ints(0xff)), shift_left<8>(bit_and(places, broadcast_ints(0xff00))));
      pair.place[v] = add(bit_and(apart, mask), begin);
    }
    const std::byte *const values = tile_ + k * tile_outputs * 2;
    make_pairs(load_ints(values), alone ? zero_ints() : load_ints(values + tile_outputs * 2), pair.value);
    return pair;
  }

 private:
  const Sparse &sparse_;
  const std::byte *tile_;
  Places places_;
};

// sums [R][32] += pairs of values · x; pair(i, &start) gives pair i.
template <int R, typename Pair>
MOE_INLINE void add_pairs(int64_t count, const Pair &pair, const std::byte *x, int64_t row_bytes, float *sums) {
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);
  for (int64_t i = 0; i < count; ++i) {
    int32_t start;
    const SparsePair &now = pair(i, &start);
    Ints place[vectors], value[vectors];
    for (int v = 0; v < vectors; ++v) place[v] = now.place[v], value[v] = now.value[v];
    const std::byte *const window = x + start * int64_t{2};
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Ints row = load_once(window + r * row_bytes);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) sum[r][v] = dot_pairs(sum[r][v], lookup_words(row, place[v]), value[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

template <int R>
[[gnu::noinline]] void multiply_pairs(const SparsePair *pairs, const int32_t *starts, int64_t count, const std::byte *x,
                                      int64_t row_bytes, float *sums) {
  const auto unpacked = [&](int64_t i, int32_t *start) -> const SparsePair & {
    *start = starts[i];
    return pairs[i];
  };
  add_pairs<R>(count, unpacked, x, row_bytes, sums);
}

void sparse_bf16_blocks(const Sparse &sparse, int64_t tile, const linear::Forms &forms, const RowBlock *blocks,
                        int32_t count, float *widened, float *sums) {
  const SparsePairs pairs(sparse, tile);
  const int64_t row_bytes = forms.stride * 2, all = (sparse.values.in + 1) / 2;
  if (count == 1) {
    const auto packed = [&](int64_t i, int32_t *start) { return pairs.at(2 * i, start); };
    const std::byte *const x = blocks->form(forms.rounded);
    return with_rows<exact_rows>(blocks->rows, [&]<int R>() { add_pairs<R>(all, packed, x, row_bytes, sums); });
  }
  constexpr int64_t piece = piece_of<SparsePair>;
  auto *const unpacked = reinterpret_cast<SparsePair *>(widened);
  int32_t starts[piece];
  for (int64_t begin = 0; begin < all; begin += piece) {
    const int64_t now = least(piece, all - begin);
    for (int64_t i = 0; i < now; ++i) unpacked[i] = pairs.at(2 * (begin + i), starts + i);
    float *block_sums = sums;
    for (int32_t i = 0; i < count; ++i) {
      const std::byte *const x = blocks[i].form(forms.rounded);
      with_rows<exact_rows>(blocks[i].rows,
                            [&]<int R>() { multiply_pairs<R>(unpacked, starts, now, x, row_bytes, block_sums); });
      block_sums += blocks[i].rows * tile_outputs;
    }
  }
}
#endif

}  // namespace
}  // namespace moe::cpu::MOE_ISA
