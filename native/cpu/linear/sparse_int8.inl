// A tile of an n:m sparse part of integers against codes of x (sparse.inl). The codes of w are the signed side of the dot
// product, x the unsigned one: what dot keeps of 128 · Σ code_w comes off again at the end of a run.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Four values of each output: where their inputs lie in a window of x, and their codes.
struct SparseStep {
  Ints place[vectors], codes[vectors];
};

// Codes of nibbles are within ±8, which the dot product of nibbles may take as its signed side too, where its other side is
// unsigned.
template <bool nibbles>
MOE_INLINE Ints multiply_codes(Ints total, Ints codes_x, Ints codes_w) {
  return nibbles && dot_excess == 0 ? dot_nibble(total, codes_x, codes_w) : dot(total, codes_x, codes_w);
}

// The codes + 128 of x that the four values of each output meet, all in the window of `reach` bytes at x.
template <int reach>
MOE_INLINE Ints find_codes(const uint8_t *x, Ints place) {
  return reach == near_bytes ? lookup_near(x, place) : lookup_far(x, place);
}
// The same from the block of each: for inputs farther apart.
MOE_INLINE Ints gather_codes(const uint8_t *x, const int32_t *blocks, Ints place) {
  alignas(64) int32_t places[width];
  alignas(64) uint8_t found[width * 4];
  __builtin_memcpy(places, &place, sizeof places);
  for (int i = 0; i < width; ++i)
    for (int j = 0; j < 4; ++j) found[i * 4 + j] = x[blocks[j] + (places[i] >> (8 * j) & 0xff)];
  return load_ints(found);
}

// The runs of a tile's values that share a scale. reach 0: no window holds the inputs of a step.
template <bool nibbles, int reach>
class SparseRuns {
 public:
  MOE_INLINE SparseRuns(const Sparse &sparse, int64_t tile)
      : sparse_(sparse),
        tile_(sparse.values.tiles + tile * sparse.values.tile_bytes),
        places_(sparse, tile),
        layout_(sparse.values) {}

  // body(first value, values, group)
  template <typename Body>
  MOE_INLINE void for_runs(const Body &body) {
    const Matrix &values = sparse_.values;
    const int64_t run = values.group ? values.padded_group() : channel_run;
    for (int64_t begin = 0; begin < values.padded; begin += run) {
      enter(begin);
      body(begin, least(values.padded - begin, run), values.group ? begin / run : 0);
    }
  }
  // Before the steps of a group: that of value `at`.
  MOE_INLINE void enter(int64_t at) { codes_ = codes(at) - at / step_values * line_bytes; }
  // Of value `at`, the first in its byte.
  MOE_INLINE const std::byte *codes(int64_t at) const {
    const Matrix &values = sparse_.values;
    const int64_t g = values.group ? at / values.padded_group() : 0;
    return layout_.codes(tile_, g) + (at - g * values.padded_group()) / step_values * line_bytes;
  }
  MOE_INLINE Vec scale(int64_t g, int v) const { return layout_.scale(tile_, g, v); }
  MOE_INLINE const int32_t *blocks(int64_t at) const { return sparse_.blocks + at; }
  // Values at … at + 3.
  MOE_INLINE SparseStep step(int64_t at) const {
    const Ints spread = broadcast_ints(reach > 0 ? sparse_.spread[at / 4] : 0);
    SparseStep step;
    places_.ask(at / 4);
    const std::byte *const later = codes_ + at / step_values * line_bytes + prefetch_bytes;
    linear::prefetch(later);
    linear::prefetch(later + 64);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      step.place[v] = add(places_.step(at / 4, v), spread);
      const Ints lanes = load_ints(codes_ + at / step_values * line_bytes + v * width * 4);
      if constexpr (nibbles) {
        const Ints low = bit_and(shift_right(lanes, static_cast<int>(at & 4)), broadcast_ints(0x0f0f0f0f));
        step.codes[v] = sub_bytes(low, broadcast_ints(0x08080808));
      } else {
        step.codes[v] = bit_xor(lanes, broadcast_ints(static_cast<int32_t>(0x80808080u)));
      }
    }
    return step;
  }

 private:
  static constexpr int64_t step_values = nibbles ? 8 : 4, line_bytes = tile_outputs * 4;

  const Sparse &sparse_;
  const std::byte *tile_, *codes_ = nullptr;  // codes_: where those of value 0 would lie
  Places places_;
  GroupLayout layout_;
};

template <bool nibbles>
MOE_INLINE void add_excess(const SparseStep &step, Ints (&excess)[vectors]) {
#pragma GCC unroll 16
  for (int v = 0; v < vectors; ++v) {
    excess[v] = multiply_codes<nibbles>(excess[v], broadcast_ints(static_cast<int32_t>(0x80808080u)), step.codes[v]);
  }
}

template <int R>
MOE_INLINE void add_run(const Vec (&scale)[vectors], const Ints (&excess)[vectors], const Ints (&dots)[R][vectors],
                        const float *steps, float *sums) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v)
      add_scaled<false>(sums + r * tile_outputs + v * width, broadcast(steps[r]), scale[v], zero(),
                        sub(dots[r][v], excess[v]), 0);
}

template <int R>
MOE_INLINE void clear_dots(Ints (&dots)[R][vectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) dots[r][v] = zero_ints();
}

// Few rows: values go from their packed form into the registers of one block.
template <int R, bool nibbles, int reach>
void sparse_int8(const Sparse &sparse, int64_t tile, const std::byte *prepared, int64_t stride, float *sums) {
  const auto *const x = reinterpret_cast<const uint8_t *>(prepared);
  const float *const steps = reinterpret_cast<const float *>(prepared + stride * R);
  SparseRuns<nibbles, reach> runs(sparse, tile);
  runs.for_runs([&](int64_t begin, int64_t count, int64_t g) {
    Ints dots[R][vectors], excess[vectors];
    clear_dots<R>(dots);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) excess[v] = zero_ints();
    for (int64_t at = begin; at < begin + count; at += 4) {
      const SparseStep step = runs.step(at);
      add_excess<nibbles>(step, excess);
      const int32_t *const blocks = runs.blocks(at);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const uint8_t *const row = x + r * stride;
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
          const Ints codes =
              reach > 0 ? find_codes<reach>(row + blocks[0], step.place[v]) : gather_codes(row, blocks, step.place[v]);
          dots[r][v] = multiply_codes<nibbles>(dots[r][v], codes, step.codes[v]);
        }
      }
    }
    Vec scale[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) scale[v] = runs.scale(g, v);
    add_run<R>(scale, excess, dots, steps + g * R, sums);
  });
}

// What is the same for all blocks of a piece of a run.
struct SparsePiece {
  const SparseStep *steps;
  int64_t count;
  const int32_t *starts;  // of the window of each step
  bool first, last;       // of the run
  Ints excess[vectors];
  Vec scale[vectors];
};

// Many rows: unpacked steps; `kept` holds the integer sums of a block between the pieces of a run.
template <int R, bool nibbles, int reach>
[[gnu::noinline]] void multiply_piece(const SparsePiece &piece, const uint8_t *x, int64_t stride, const float *steps,
                                      std::byte *kept, float *sums) {
  Ints dots[R][vectors];
  clear_dots<R>(dots);
  if (!piece.first) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) dots[r][v] = load_ints(kept + (r * vectors + v) * int64_t{sizeof(Ints)});
  }
  for (int64_t i = 0; i < piece.count; ++i) {
    const SparseStep step = piece.steps[i];
    const uint8_t *const window = x + piece.starts[i];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v)
        dots[r][v] =
            multiply_codes<nibbles>(dots[r][v], find_codes<reach>(window + r * stride, step.place[v]), step.codes[v]);
  }
  if (piece.last) {
    add_run<R>(piece.scale, piece.excess, dots, steps, sums);
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const Ints sum = dots[r][v];
        __builtin_memcpy(kept + (r * vectors + v) * int64_t{sizeof sum}, &sum, sizeof sum);
      }
  }
}

template <bool nibbles, int reach>
void sparse_int8_pieces(const Sparse &sparse, int64_t tile, const linear::Forms &forms, const RowBlock *blocks,
                        int32_t count, float *widened, float *sums) {
  alignas(64) std::byte kept[linear::segment_rows * tile_outputs * 4];
  int32_t starts[piece_of<SparseStep>];
  auto *const unpacked = reinterpret_cast<SparseStep *>(widened);
  SparseRuns<nibbles, reach> runs(sparse, tile);
  runs.for_runs([&](int64_t begin, int64_t values, int64_t g) {
    SparsePiece piece{unpacked, 0, starts, true, false, {}, {}};
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) piece.excess[v] = zero_ints(), piece.scale[v] = runs.scale(g, v);
    for (int64_t done = 0; done < values; done += 4 * piece.count) {
      piece.first = done == 0;
      piece.count = least(piece_of<SparseStep>, (values - done) / 4);
      piece.last = done + 4 * piece.count == values;
      for (int64_t i = 0; i < piece.count; ++i) {
        unpacked[i] = runs.step(begin + done + 4 * i);
        starts[i] = *runs.blocks(begin + done + 4 * i);
        // A whole window where the step lies in one: an unaligned load would touch two lines.
        if (const int32_t over = starts[i] % reach; over + sparse.reach <= reach) {
          starts[i] -= over;
          for (Ints &place : unpacked[i].place) place = add(place, broadcast_ints(over * 0x01010101));
        }
        add_excess<nibbles>(unpacked[i], piece.excess);
      }
      int64_t row = 0;
      for (int32_t i = 0; i < count; ++i) {
        const int32_t rows = blocks[i].rows;
        const std::byte *const x = blocks[i].form(forms.sparse);
        const float *const steps = reinterpret_cast<const float *>(x + forms.stride * rows) + g * rows;
        with_rows<int8_rows>(rows, [&]<int R>() {
          multiply_piece<R, nibbles, reach>(piece, reinterpret_cast<const uint8_t *>(x), forms.stride, steps,
                                            kept + row * tile_outputs * 4, sums + row * tile_outputs);
        });
        row += rows;
      }
    }
  });
}

template <bool nibbles>
void sparse_int8_blocks(const Sparse &sparse, int64_t tile, const linear::Forms &forms, const RowBlock *blocks,
                        int32_t count, float *widened, float *sums) {
  const auto run = [&]<int reach>() {
    if constexpr (reach > 0) {
      if (count > 1) return sparse_int8_pieces<nibbles, reach>(sparse, tile, forms, blocks, count, widened, sums);
    }
    for (int32_t i = 0; i < count; ++i) {
      const std::byte *const x = blocks[i].form(forms.sparse);
      with_rows<int8_rows>(blocks[i].rows,
                           [&]<int R>() { sparse_int8<R, nibbles, reach>(sparse, tile, x, forms.stride, sums); });
      sums += blocks[i].rows * tile_outputs;
    }
  };
  if (sparse.reach <= near_bytes) {
    run.template operator()<near_bytes>();
  } else if (sparse.reach <= far_bytes) {
    run.template operator()<far_bytes>();
  } else {
    run.template operator()<0>();
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
