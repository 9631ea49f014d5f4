// A tile of an n:m sparse part of bf16 against rows rounded to bf16 (sparse.inl), where a set has their products: two values
// of each output meet the two inputs that their places pick from a window of the row. x [R][stride], zeros behind its inputs.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

#if defined(MOE_BF16_PAIRS) && !defined(MOE_TILES)  // in tiles: amx_sparse.inl
// Two values of each output, and where their inputs lie in a window of x.
struct SparsePair {
  Ints place[vectors], value[vectors];
};

// Takes the values of a tile apart.
class SparsePairs {
 public:
  MOE_INLINE SparsePairs(const Sparse &sparse, int64_t tile)
      : sparse_(sparse), tile_(sparse.values.tiles + tile * sparse.values.tile_bytes), places_(sparse, tile) {}

  int64_t count() const { return (sparse_.values.in + 1) / 2; }
  // Pairs i and i + 1, i even; gives where their window starts: a whole one's first input where they all lie in it.
  MOE_INLINE int32_t step(int64_t i, SparsePair &low, SparsePair &high) const {
    const int64_t k = 2 * i, left = sparse_.values.in - k;
    const int32_t first = sparse_.blocks[k], over = first % linear::pair_window;
    auto from_first = static_cast<uint32_t>(sparse_.spread[i / 2]);
    if (left == 1 || left == 3)  // the last value's companion is the zero behind the inputs
      from_first |= static_cast<uint32_t>(sparse_.in - first) << (8 * left);
    const bool whole = left >= 4 && over + sparse_.reach <= linear::pair_window;
    if (whole) from_first += static_cast<uint32_t>(over) * 0x01010101u;
    const Ints begin = broadcast_ints(static_cast<int32_t>(from_first));
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Ints places = add(places_.step(i / 2, v), begin);
      low.place[v] = words_of<0>(places);
      high.place[v] = words_of<1>(places);
    }
    const std::byte *const values = tile_ + k * tile_outputs * 2;
    constexpr int64_t line = tile_outputs * 2;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) linear::prefetch(values + prefetch_bytes + j * line);
    places_.ask(i / 2);
    make_pairs(load_ints(values), load_ints(values + line), low.value);
    make_pairs(load_ints(values + 2 * line), load_ints(values + 3 * line), high.value);
    return whole ? first - over : first;
  }

 private:
  const Sparse &sparse_;
  const std::byte *tile_;
  Places places_;
};

template <int R>
MOE_INLINE void add_pair(const SparsePair &pair, const std::byte *window, int64_t row_bytes, Vec (&sum)[R][vectors]) {
  Ints place[vectors], value[vectors];
#pragma GCC unroll 16
  for (int v = 0; v < vectors; ++v) place[v] = pair.place[v], value[v] = pair.value[v];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Ints row = load_once(window + r * row_bytes);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = dot_pairs(sum[r][v], lookup_words(row, place[v]), value[v]);
  }
}

// body(sums [R][32], in registers)
template <int R, typename Body>
MOE_INLINE void in_registers(float *sums, const Body &body) {
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);
  body(sum);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

// Few rows: values go from their packed form into the registers of one block.
template <int R>
void sparse_bf16(const SparsePairs &pairs, const std::byte *x, int64_t row_bytes, float *sums) {
  in_registers<R>(sums, [&](Vec(&sum)[R][vectors]) {
    for (int64_t i = 0; i < pairs.count(); i += 2) {
      SparsePair low, high;
      const std::byte *const window = x + pairs.step(i, low, high) * int64_t{2};
      add_pair<R>(low, window, row_bytes, sum);
      if (i + 1 < pairs.count()) add_pair<R>(high, window, row_bytes, sum);
    }
  });
}

// Many rows: unpacked pairs, two to a window.
template <int R>
[[gnu::noinline]] void multiply_pairs(const SparsePair *pairs, const int32_t *starts, int64_t count, const std::byte *x,
                                      int64_t row_bytes, float *sums) {
  in_registers<R>(sums, [&](Vec(&sum)[R][vectors]) {
    for (int64_t i = 0; i < count; ++i) add_pair<R>(pairs[i], x + starts[i / 2] * int64_t{2}, row_bytes, sum);
  });
}

void sparse_bf16_blocks(const Sparse &sparse, int64_t tile, const linear::Forms &forms, const RowBlock *blocks,
                        int32_t count, float *widened, float *sums) {
  const SparsePairs pairs(sparse, tile);
  const int64_t row_bytes = forms.stride * 2;
  if (count == 1) {
    return with_rows<exact_rows>(blocks->rows,
                                 [&]<int R>() { sparse_bf16<R>(pairs, blocks->form(forms.rounded), row_bytes, sums); });
  }
  constexpr int64_t piece = piece_of<SparsePair>;
  static_assert(piece % 2 == 0);
  auto *const unpacked = reinterpret_cast<SparsePair *>(widened);
  int32_t starts[piece / 2];
  for (int64_t begin = 0; begin < pairs.count(); begin += piece) {
    const int64_t now = least(piece, pairs.count() - begin);
    for (int64_t i = 0; i < now; i += 2) starts[i / 2] = pairs.step(begin + i, unpacked[i], unpacked[i + 1]);
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
