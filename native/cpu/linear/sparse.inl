// A tile of an n:m sparse part: each lane is an output and picks its inputs from a window of x by their places, so that
// only values that are kept are read and multiplied. sums [R][32] += S·x, values in order of the row.
//
// Bound: few rows read values and places once (memory); many rows do a lookup and a multiply-add a value and output,
// as many instructions as a dense matrix of twice the values.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Reads the places of four values of 32 outputs at a time: one to a byte.
class Places {
 public:
  MOE_INLINE Places(const Sparse &sparse, int64_t tile) : from_(sparse.places + tile * sparse.place_bytes) {
    bits_ = sparse.place_bits;
    log_ = bits_ == 2 ? 2 : bits_ == 4 ? 1 : 0;  // of the steps of four in a line
    const uint32_t one = bits_ == 8 ? 0xffu : (1u << bits_) - 1u;
    mask_ = broadcast_ints(static_cast<int32_t>(one * 0x01010101u));
  }
  MOE_INLINE Ints step(int64_t index, int v) const {
    const Ints lanes = load_ints(from_ + (index >> log_) * 128 + v * width * 4);
    return bit_and(shift_right(lanes, static_cast<int>(index & ((1 << log_) - 1)) * bits_), mask_);
  }

 private:
  const std::byte *from_;
  int bits_, log_;
  Ints mask_;
};

// ---- exact ---------------------------------------------------------------------------------------------------------

template <int place>
MOE_INLINE Ints byte_of(Ints lanes) {
  if constexpr (place == 3) return shift_right<24>(lanes);
  return bit_and(shift_right<8 * place>(lanes), broadcast_ints(0xff));
}

// How values find their inputs: in one window of x for the four of a step, in a window for each, or by gathering.
enum class Window { step, value, none };

// `count` values of each output, w[j] times the inputs at x + blocks[j] + index[j], for each row.
template <int count, int R, Window window>
MOE_INLINE void multiply_values(const float *x, int64_t stride, const int32_t *blocks, const Ints (&index)[4],
                                const Vec (&w)[4], Vec (&sum)[R][vectors], int v) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r, x += stride) {
#pragma GCC unroll 4
    for (int j = 0; j < count; ++j) {
      const float *const from = x + blocks[window == Window::step ? 0 : j];
      sum[r][v] = fma(window == Window::none ? gather(from, index[j]) : lookup(from, index[j]), w[j], sum[r][v]);
    }
  }
}

template <int R, int form, Window window>
void sparse_exact(const Sparse &sparse, int64_t index, const float *x, int64_t stride, float *sums) {
  const Matrix &values = sparse.values;
  const std::byte *const tile = values.tiles + index * values.tile_bytes;
  const Places places(sparse, index);
  const GroupLayout layout(values);
  const int64_t padded = values.padded_group(), group = values.group ? values.group : values.in;
  const Ints bias = broadcast_ints(static_cast<int32_t>(0x80808080u));
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);

  int64_t left = values.in;
  for (int64_t g = 0; g < values.groups(); ++g, left -= group) {
    const int64_t count = least(left, group);  // padding must not meet an infinite input
    Vec scale[vectors];
    if constexpr (form == MOE_I4 || form == MOE_I8) {
      for (int v = 0; v < vectors; ++v) scale[v] = layout.scale(tile, g, v);
    }
    for (int64_t k = 0; k < count; k += 4) {
      const int64_t at = g * padded + k;
      const int32_t *const blocks = sparse.blocks + at;
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        Ints place = places.step(at / 4, v);
        if constexpr (window == Window::step) place = add(place, broadcast_ints(sparse.spread[at / 4]));
        Ints codes = zero_ints();
        if constexpr (form == MOE_I4) {
          codes = load_ints(layout.codes(tile, g) + k / 8 * 128 + v * width * 4);
          codes = shift_right(codes, static_cast<int>(k & 4));
        } else if constexpr (form == MOE_I8) {
          codes = bit_xor(load_ints(layout.codes(tile, g) + k / 4 * 128 + v * width * 4), bias);
        }
        const auto value = [&]<int j>() {
          if constexpr (form == MOE_I4) return mul(scale[v], nibble_to_float(shift_right<8 * j>(codes)));
          if constexpr (form == MOE_I8) return mul(scale[v], byte_to_float<j>(codes));
          return load_weight<form>(tile, (at + j) * tile_outputs + v * width);
        };
        const Ints index[4] = {byte_of<0>(place), byte_of<1>(place), byte_of<2>(place), byte_of<3>(place)};
        const Vec w[4] = {value.template operator()<0>(), value.template operator()<1>(),
                          value.template operator()<2>(), value.template operator()<3>()};
        if (count - k >= 4) {
          multiply_values<4, R, window>(x, stride, blocks, index, w, sum, v);
        } else if (count - k == 3) {
          multiply_values<3, R, window>(x, stride, blocks, index, w, sum, v);
        } else if (count - k == 2) {
          multiply_values<2, R, window>(x, stride, blocks, index, w, sum, v);
        } else {
          multiply_values<1, R, window>(x, stride, blocks, index, w, sum, v);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

template <int form>
void sparse_exact_blocks(const Sparse &sparse, int64_t index, const linear::Forms &forms, const RowBlock *blocks,
                         int32_t count, float *sums) {
  for (int32_t i = 0; i < count; ++i) {
    const float *const x = reinterpret_cast<const float *>(blocks[i].form(forms.rows));
    with_rows<exact_rows>(blocks[i].rows, [&]<int R>() {
      if (sparse.reach <= lookup_floats) {
        sparse_exact<R, form, Window::step>(sparse, index, x, forms.stride, sums);
      } else if (sparse.m <= lookup_floats) {
        sparse_exact<R, form, Window::value>(sparse, index, x, forms.stride, sums);
      } else {
        sparse_exact<R, form, Window::none>(sparse, index, x, forms.stride, sums);
      }
    });
    sums += blocks[i].rows * tile_outputs;
  }
}

// ---- int8 ----------------------------------------------------------------------------------------------------------

// The codes + 128 of x that the four values of each output meet. reach: 16, 32, or 0 for inputs farther apart.
template <int reach>
MOE_INLINE Ints find_codes(const uint8_t *x, const int32_t *blocks, Ints place, Ints spread) {
  if constexpr (reach == 16) return lookup_bytes16(x + blocks[0], add(place, spread));
  if constexpr (reach == 32) return lookup_bytes32(x + blocks[0], add(place, spread));
  alignas(64) int32_t places[width];
  alignas(64) uint8_t found[width * 4];
  __builtin_memcpy(places, &place, sizeof places);
  for (int i = 0; i < width; ++i)
    for (int j = 0; j < 4; ++j) found[i * 4 + j] = x[blocks[j] + (places[i] >> (8 * j) & 0xff)];
  return load_ints(found);
}

// The codes of w are the signed side of the dot product, x the unsigned one: what dot keeps of 128 · Σ code_w comes off again.
template <int R, bool nibbles, int reach>
void sparse_int8(const Sparse &sparse, int64_t index, const std::byte *prepared, int64_t stride, float *sums) {
  const Matrix &values = sparse.values;
  const std::byte *const tile = values.tiles + index * values.tile_bytes;
  const Places places(sparse, index);
  const GroupLayout layout(values);
  const auto *const x = reinterpret_cast<const uint8_t *>(prepared);
  const float *const steps = reinterpret_cast<const float *>(prepared + stride * R);
  const int64_t padded = values.padded_group(), run = values.group ? padded : channel_run;
  const Ints half = broadcast_ints(static_cast<int32_t>(0x80808080u)), low = broadcast_ints(0x0f0f0f0f),
             eight = broadcast_ints(0x08080808);
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);

  for (int64_t begin = 0; begin < values.padded; begin += run) {
    const int64_t g = values.group ? begin / run : 0, within = begin - g * padded;
    const int64_t end = least(values.padded - begin, run);
    const std::byte *const codes = layout.codes(tile, g) + within * tile_outputs / (nibbles ? 2 : 1);
    Ints dots[R][vectors], excess[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      excess[v] = zero_ints();
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) dots[r][v] = zero_ints();
    }
    for (int64_t k = 0; k < end; k += 4) {
      const int64_t at = begin + k;
      const Ints spread = broadcast_ints(sparse.spread[at / 4]);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const Ints place = places.step(at / 4, v);
        const Ints lanes = load_ints(codes + k / (nibbles ? 8 : 4) * 128 + v * width * 4);
        Ints w;
        if constexpr (nibbles) {
          w = sub_bytes(bit_and(shift_right(lanes, static_cast<int>(k & 4)), low), eight);
        } else {
          w = bit_xor(lanes, half);
        }
        // Codes of nibbles are within ±8, which the dot product of nibbles may take as its signed side too, where its other
        // side is unsigned.
        const auto multiply = [&](Ints total, Ints codes_x) {
          return nibbles && dot_excess == 0 ? dot_nibble(total, codes_x, w) : dot(total, codes_x, w);
        };
        excess[v] = multiply(excess[v], half);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          dots[r][v] = multiply(dots[r][v], find_codes<reach>(x + r * stride, sparse.blocks + at, place, spread));
        }
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Vec scale = layout.scale(tile, g, v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec value = mul(scale, to_float(sub(dots[r][v], excess[v])));
        sum[r][v] = fma(broadcast(steps[g * R + r]), value, sum[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

template <bool nibbles>
void sparse_int8_blocks(const Sparse &sparse, int64_t index, const linear::Forms &forms, const RowBlock *blocks,
                        int32_t count, float *sums) {
  for (int32_t i = 0; i < count; ++i) {
    const std::byte *const x = blocks[i].form(forms.sparse);
    with_rows<int8_rows>(blocks[i].rows, [&]<int R>() {
      if (sparse.reach <= 16) {
        sparse_int8<R, nibbles, 16>(sparse, index, x, forms.stride, sums);
      } else if (sparse.reach <= 32) {
        sparse_int8<R, nibbles, 32>(sparse, index, x, forms.stride, sums);
      } else {
        sparse_int8<R, nibbles, 0>(sparse, index, x, forms.stride, sums);
      }
    });
    sums += blocks[i].rows * tile_outputs;
  }
}

void sparse_tile(const Call &call, const Sparse &sparse, int64_t index, const RowBlock *blocks, int32_t count,
                 float *sums) {
  const int32_t store = sparse.values.store;
  if (call.int8 && store == MOE_I4) return sparse_int8_blocks<true>(sparse, index, call.forms, blocks, count, sums);
  if (call.int8 && store == MOE_I8) return sparse_int8_blocks<false>(sparse, index, call.forms, blocks, count, sums);
  if (store == MOE_I4) return sparse_exact_blocks<MOE_I4>(sparse, index, call.forms, blocks, count, sums);
  if (store == MOE_I8) return sparse_exact_blocks<MOE_I8>(sparse, index, call.forms, blocks, count, sums);
  if (store == MOE_F16) return sparse_exact_blocks<MOE_F16>(sparse, index, call.forms, blocks, count, sums);
  if (store == MOE_BF16) return sparse_exact_blocks<MOE_BF16>(sparse, index, call.forms, blocks, count, sums);
  sparse_exact_blocks<MOE_F32>(sparse, index, call.forms, blocks, count, sums);
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
