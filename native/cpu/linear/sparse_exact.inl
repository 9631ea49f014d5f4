// A tile of an n:m sparse part in f32 (sparse.inl).
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

template <int place>
MOE_INLINE Ints byte_of(Ints lanes) {
  if constexpr (place == 3) return shift_right<24>(lanes);
  return bit_and(shift_right<8 * place>(lanes), broadcast_ints(0xff));
}

// How values find their inputs: in one window of x for the four of a step, in a window for each, or by gathering.
enum class Window { step, value, none };

template <Window window>
MOE_INLINE Vec find_inputs(const float *x, Ints index) {
  return window == Window::none ? gather(x, index) : lookup(x, index);
}

// Takes the values of a tile apart, four of `width` outputs at a time.
template <int form, Window window>
class ExactSteps {
 public:
  MOE_INLINE ExactSteps(const Sparse &sparse, int64_t index)
      : sparse_(sparse),
        tile_(sparse.values.tiles + index * sparse.values.tile_bytes),
        places_(sparse, index),
        layout_(sparse.values),
        padded_(sparse.values.padded_group()) {}

  MOE_INLINE void group(int64_t g) {
    group_ = g;
    if constexpr (form == MOE_I4 || form == MOE_I8) {
      for (int v = 0; v < vectors; ++v) scale_[v] = layout_.scale(tile_, g, v);
    }
  }
  // Where the windows of values k … k + 3 of the group start in x.
  MOE_INLINE int32_t start(int64_t k, int j) const {
    return sparse_.blocks[group_ * padded_ + k + (window == Window::step ? 0 : j)];
  }
  MOE_INLINE void at(int64_t k, int v, Ints (&index)[4], Vec (&w)[4]) const {
    const int64_t at = group_ * padded_ + k;
    Ints place = places_.step(at / 4, v);
    if constexpr (window == Window::step) place = add(place, broadcast_ints(sparse_.spread[at / 4]));
    Ints codes = zero_ints();
    if constexpr (form == MOE_I4) {
      codes = load_ints(layout_.codes(tile_, group_) + k / 8 * 128 + v * width * 4);
      codes = shift_right(codes, static_cast<int>(k & 4));
    } else if constexpr (form == MOE_I8) {
      codes = bit_xor(load_ints(layout_.codes(tile_, group_) + k / 4 * 128 + v * width * 4),
                      broadcast_ints(static_cast<int32_t>(0x80808080u)));
    }
    const auto value = [&]<int j>() {
      if constexpr (form == MOE_I4) return mul(scale_[v], nibble_to_float(shift_right<8 * j>(codes)));
      if constexpr (form == MOE_I8) return mul(scale_[v], byte_to_float<j>(codes));
      return load_weight<form>(tile_, (at + j) * tile_outputs + v * width);
    };
    index[0] = byte_of<0>(place), index[1] = byte_of<1>(place);
    index[2] = byte_of<2>(place), index[3] = byte_of<3>(place);
    w[0] = value.template operator()<0>(), w[1] = value.template operator()<1>();
    w[2] = value.template operator()<2>(), w[3] = value.template operator()<3>();
  }

 private:
  const Sparse &sparse_;
  const std::byte *tile_;
  Places places_;
  GroupLayout layout_;
  int64_t padded_, group_ = 0;
  Vec scale_[vectors];
};

// body(group, values of it): padding is left out, as it must not meet an infinite input.
template <typename Body>
MOE_INLINE void for_groups(const Matrix &values, const Body &body) {
  const int64_t group = values.group ? values.group : values.in;
  for (int64_t g = 0; g < values.groups(); ++g) body(g, least(values.in - g * group, group));
}

// Few rows: values go from their packed form into the registers of one block.
template <int R, int form, Window window>
void sparse_exact(const Sparse &sparse, int64_t tile, const float *x, int64_t stride, float *sums) {
  ExactSteps<form, window> steps(sparse, tile);
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);
  for_groups(sparse.values, [&](int64_t g, int64_t count) {
    steps.group(g);
    for (int64_t k = 0; k < count; k += 4) {
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        Ints index[4];
        Vec w[4];
        steps.at(k, v, index, w);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          if (j > 0 && k + j >= count) break;
          const float *const from = x + steps.start(k, j);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r)
            sum[r][v] = fma(find_inputs<window>(from + r * stride, index[j]), w[j], sum[r][v]);
        }
      }
    }
  });
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

// Many rows: a value of all outputs, unpacked.
struct SparseValue {
  Ints index[vectors];
  Vec w[vectors];
};

template <int R, Window window>
[[gnu::noinline]] void multiply_values(const SparseValue *values, const int32_t *starts, int64_t count, const float *x,
                                       int64_t stride, float *sums) {
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);
  for (int64_t i = 0; i < count; ++i) {
    const SparseValue value = values[i];
    const float *const from = x + starts[i];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v)
        sum[r][v] = fma(find_inputs<window>(from + r * stride, value.index[v]), value.w[v], sum[r][v]);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

template <int form, Window window>
void sparse_exact_pieces(const Sparse &sparse, int64_t tile, const linear::Forms &forms, const RowBlock *blocks,
                         int32_t count, float *widened, float *sums) {
  ExactSteps<form, window> steps(sparse, tile);
  constexpr int64_t piece = piece_of<SparseValue>;
  static_assert(piece % 4 == 0);
  auto *const unpacked = reinterpret_cast<SparseValue *>(widened);
  int32_t starts[piece];
  int64_t filled = 0;
  // Windows start at whole vectors, where what a value may need lies in one: an unaligned load would touch two lines.
  const int32_t reach = window == Window::step ? sparse.reach : sparse.m;
  const auto within = [&](int32_t start) {
    const int32_t over = start % lookup_floats;
    return over + reach <= lookup_floats ? over : 0;
  };
  const auto flush = [&] {
    float *block_sums = sums;
    for (int32_t i = 0; i < count; ++i) {
      const float *const x = reinterpret_cast<const float *>(blocks[i].form(forms.rows));
      with_rows<exact_rows>(blocks[i].rows, [&]<int R>() {
        multiply_values<R, window>(unpacked, starts, filled, x, forms.stride, block_sums);
      });
      block_sums += blocks[i].rows * tile_outputs;
    }
    filled = 0;
  };
  for_groups(sparse.values, [&](int64_t g, int64_t values) {
    steps.group(g);
    for (int64_t k = 0; k < values; k += 4) {
      const int64_t now = least(4, values - k);
      if (filled + now > piece) flush();
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        Ints index[4];
        Vec w[4];
        steps.at(k, v, index, w);
        for (int j = 0; j < now; ++j) {
          unpacked[filled + j].index[v] = add(index[j], broadcast_ints(within(steps.start(k, j))));
          unpacked[filled + j].w[v] = w[j];
        }
      }
      for (int j = 0; j < now; ++j) starts[filled + j] = steps.start(k, j) - within(steps.start(k, j));
      filled += now;
    }
  });
  flush();
}

template <int form>
void sparse_exact_blocks(const Sparse &sparse, int64_t tile, const linear::Forms &forms, const RowBlock *blocks,
                         int32_t count, float *widened, float *sums) {
  const auto run = [&]<Window window>() {
    if (count > 1) return sparse_exact_pieces<form, window>(sparse, tile, forms, blocks, count, widened, sums);
    const float *const x = reinterpret_cast<const float *>(blocks->form(forms.rows));
    with_rows<exact_rows>(blocks->rows,
                          [&]<int R>() { sparse_exact<R, form, window>(sparse, tile, x, forms.stride, sums); });
  };
  if (sparse.reach <= lookup_floats) {
    run.template operator()<Window::step>();
  } else if (sparse.m <= lookup_floats) {
    run.template operator()<Window::value>();
  } else {
    run.template operator()<Window::none>();
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
