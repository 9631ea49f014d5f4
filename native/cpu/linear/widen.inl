// Where the scales and codes of a tile lie (tile.h), and integer weights widened to f32.
#include "linear/tile.h"

namespace moe::cpu::MOE_ISA {
namespace {

constexpr int vectors = tile_outputs / width;  // a tile's row of sums

// The hardware's own prefetch stops at each page, and few rows do not cover what it then waits: steps are asked for a page
// ahead.
constexpr int64_t prefetch_bytes = 4096;

template <int store>
MOE_INLINE Vec load_weight(const std::byte *tile, int64_t element) {
  if constexpr (store == MOE_F16) return load_f16(reinterpret_cast<const uint16_t *>(tile) + element);
  if constexpr (store == MOE_BF16) return load_bf16(reinterpret_cast<const uint16_t *>(tile) + element);
  return load(reinterpret_cast<const float *>(tile) + element);
}

MOE_INLINE Vec load_value(const std::byte *row, bool half, int v) {
  if (half) return load_f16(reinterpret_cast<const uint16_t *>(row) + v * width);
  return load(reinterpret_cast<const float *>(row) + v * width);
}

class GroupLayout {
 public:
  MOE_INLINE explicit GroupLayout(const Matrix &matrix)
      : half_((matrix.outer >= 0 ? matrix.outer : matrix.scale) == MOE_F16),
        offsets_(matrix.offset >= 0),
        dual_(matrix.outer >= 0) {
    value_bytes_ = tile_outputs * (half_ ? 2 : 4);
    const int64_t lines = matrix.padded_group() * tile_outputs / (matrix.store == MOE_I4 ? 2 : 1);
    if (dual_) {
      scales_ = value_bytes_;
      scale_bytes_ = tile_outputs;
      codes_ = scales_ + (matrix.groups() * tile_outputs + 63) / 64 * 64;
      bytes_ = lines;
    } else {
      codes_ = value_bytes_ * (offsets_ ? 2 : 1);
      scale_bytes_ = bytes_ = codes_ + lines;
    }
  }
  MOE_INLINE bool dual() const { return dual_; }
  MOE_INLINE bool offsets() const { return offsets_; }
  MOE_INLINE const std::byte *codes(const std::byte *tile, int64_t group) const {
    return tile + codes_ + group * bytes_;
  }
  MOE_INLINE const std::byte *scales(const std::byte *tile, int64_t group) const { return tile + group * scale_bytes_; }
  MOE_INLINE Vec outer(const std::byte *tile, int v) const { return load_value(tile, half_, v); }
  MOE_INLINE Ints inner(const std::byte *tile, int64_t group, int v) const {
    return load_int8s(tile + scales_ + group * scale_bytes_ + v * width);
  }
  MOE_INLINE Vec scale(const std::byte *tile, int64_t group, int v) const {
    return load_value(tile + group * scale_bytes_, half_, v);
  }
  MOE_INLINE Vec offset(const std::byte *tile, int64_t group, int v) const {
    return offsets_ ? load_value(tile + group * scale_bytes_ + value_bytes_, half_, v) : zero();
  }

 private:
  int64_t value_bytes_, scales_ = 0, scale_bytes_, codes_, bytes_;
  bool half_, offsets_, dual_;
};

template <int place>
MOE_INLINE Vec byte_to_float(Ints lanes) {  // of signed bytes
  return to_float(shift_right_signed<24>(shift_left<24 - 8 * place>(lanes)));
}

template <int shift>
MOE_INLINE void widen_nibble(Ints lanes, Vec scale, Vec offset, float *to) {
  store(to, fms(scale, nibble_to_float(shift_right<shift>(lanes)), offset));
}
template <int place>
MOE_INLINE void widen_byte(Ints lanes, Vec scale, Vec offset, float *to) {
  store(to, fms(scale, byte_to_float<place>(lanes), offset));
}

// Inputs [begin, end) of a tile of a dense matrix as f32 [end − begin][32]; begin is a multiple of 128, end of 8.
void widen(const Matrix &matrix, const std::byte *tile, int64_t begin, int64_t end, float *to) {
  const GroupLayout layout(matrix);
  const int64_t group = matrix.padded_group();
  for (int64_t k = begin; k < end;) {
    const int64_t index = k / group;
    const int64_t stop = least(end, (index + 1) * group);
    for (int v = 0; v < vectors; ++v) {
      const Vec scale = layout.dual() ? mul(layout.outer(tile, v), to_float(layout.inner(tile, index, v)))
                                      : layout.scale(tile, index, v);
      const Vec offset = layout.offset(tile, index, v);
      const std::byte *codes = layout.codes(tile, index) + v * width * 4;
      float *out = to + (k - begin) * tile_outputs + v * width;
      constexpr int o = tile_outputs;
      if (matrix.store == MOE_I4) {
        codes += (k - index * group) / 8 * 128;
        for (int64_t i = k; i < stop; i += 8, codes += 128, out += 8 * o) {
          const Ints lanes = load_ints(codes);
          widen_nibble<0>(lanes, scale, offset, out);
          widen_nibble<8>(lanes, scale, offset, out + o);
          widen_nibble<16>(lanes, scale, offset, out + 2 * o);
          widen_nibble<24>(lanes, scale, offset, out + 3 * o);
          widen_nibble<4>(lanes, scale, offset, out + 4 * o);
          widen_nibble<12>(lanes, scale, offset, out + 5 * o);
          widen_nibble<20>(lanes, scale, offset, out + 6 * o);
          widen_nibble<28>(lanes, scale, offset, out + 7 * o);
        }
      } else {
        codes += (k - index * group) / 4 * 128;
        const Ints sign = broadcast_ints(static_cast<int32_t>(0x80808080u));
        for (int64_t i = k; i < stop; i += 4, codes += 128, out += 4 * o) {
          const Ints lanes = bit_xor(load_ints(codes), sign);
          widen_byte<0>(lanes, scale, offset, out);
          widen_byte<1>(lanes, scale, offset, out + o);
          widen_byte<2>(lanes, scale, offset, out + 2 * o);
          widen_byte<3>(lanes, scale, offset, out + 3 * o);
        }
      }
    }
    k = stop;
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
