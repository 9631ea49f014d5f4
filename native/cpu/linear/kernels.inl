// y = activation(x·Wᵀ + bias) + residual for tiles of one slot and a few rows. Layouts: tile.h, kernels.h.
//
// Bound: few rows read every weight byte once (memory); many rows do 2 · rows · in · 32 operations a tile
// (multipliers).
// exact: f32 sums in order of k, one chain an output; integer weights are widened to f32 piece by piece first.
// int8:  int32 sums a run of inputs, then step · (scale · Σ − offset · Σx) added in f32 in order of the runs.
// Neither order depends on how many rows or threads there are, so a row's result is bitwise its own.
// Reached: one row 73 to 89 % of the streaming read in every form, 512 rows 58 % (f32) to 90 % (int4) of the peak
// (AVX-512, 2 Cascade Lake cores, 2026-11-22; docs/performance.md).
#include "linear/kernels.h"
#include "linear/rows.inl"
#include "moe/operations.h"

namespace moe::cpu::MOE_ISA {
namespace {

using linear::Call;
using linear::RowBlock;

constexpr int vectors = tile_outputs / width;  // a tile's row of sums
// Sums, one weight row and a broadcast x fit the registers: 12 · 2 + 2 + 1 of 32; 3 · 4 + 1 + 3 of 16; 1 · 8 + … of 16.
constexpr int exact_rows = width == 16 ? 12 : width == 8 ? 3 : 1;
// Integer sums and f32 sums both stay in registers: 6 · 2 · 2 + … of 32.
constexpr int int8_rows = width == 16 ? 6 : width == 8 ? 2 : 1;

// Runs body.template operator()<R>() with R = rows, 1 ≤ rows ≤ most.
template <int most, typename Body>
MOE_INLINE void with_rows(int rows, const Body &body) {
  if constexpr (most > 1) {
    if (rows < most) return with_rows<most - 1>(rows, body);
  }
  body.template operator()<most>();
}

// ---- weights -------------------------------------------------------------------------------------------------------

template <int store>
MOE_INLINE Vec load_weight(const std::byte *tile, int64_t element) {
  if constexpr (store == MOE_F16) return load_f16(reinterpret_cast<const uint16_t *>(tile) + element);
  if constexpr (store == MOE_BF16) return load_bf16(reinterpret_cast<const uint16_t *>(tile) + element);
  return load(reinterpret_cast<const float *>(tile) + element);
}

// Where the scales, offsets and codes of a group lie in a tile.
struct GroupLayout {
  int64_t value_bytes, head, bytes;  // a row of 32 scales; scales and offsets; a whole group
  bool half, offsets;
  MOE_INLINE explicit GroupLayout(const Slot &slot) {
    half = slot.scale == MOE_F16;
    offsets = slot.offset >= 0;
    value_bytes = tile_outputs * (half ? 2 : 4);
    head = value_bytes * (offsets ? 2 : 1);
    bytes = head + slot.group * tile_outputs / (slot.store == MOE_I4 ? 2 : 1);
  }
  MOE_INLINE Vec value(const std::byte *row, int v) const {
    if (half) return load_f16(reinterpret_cast<const uint16_t *>(row) + v * width);
    return load(reinterpret_cast<const float *>(row) + v * width);
  }
};

template <int shift>
MOE_INLINE void widen_nibble(Ints lanes, Vec scale, Vec offset, float *to) {
  store(to, fms(scale, nibble_to_float(shift_right<shift>(lanes)), offset));
}
template <int place>
MOE_INLINE void widen_byte(Ints lanes, Vec scale, Vec offset, float *to) {
  const Ints code = shift_right_signed<24>(shift_left<24 - 8 * place>(lanes));
  store(to, fms(scale, to_float(code), offset));
}

// Inputs [begin, end) of a tile as f32 [end − begin][32]; begin is a multiple of 128, end of 8.
void widen(const Slot &slot, const std::byte *tile, int64_t begin, int64_t end, float *to) {
  const GroupLayout layout(slot);
  const int64_t group = slot.group ? slot.group : slot.padded;
  for (int64_t k = begin; k < end;) {
    const int64_t index = k / group;
    const std::byte *const head = tile + index * layout.bytes;
    const int64_t stop = least(end, (index + 1) * group);
    for (int v = 0; v < vectors; ++v) {
      const Vec scale = layout.value(head, v);
      const Vec offset = layout.offsets ? layout.value(head + layout.value_bytes, v) : zero();
      const std::byte *codes = head + layout.head + v * width * 4;
      float *out = to + (k - begin) * tile_outputs + v * width;
      constexpr int o = tile_outputs;
      if (slot.store == MOE_I4) {
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

// ---- exact ---------------------------------------------------------------------------------------------------------

// sums [R][32] += x [count][R] · w [count][32]
template <int R, int store_form>
void exact_piece(const std::byte *w, const float *x, int64_t count, float *sums) {
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);
  for (int64_t k = 0; k < count; ++k, x += R) {
    Vec row[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) row[r] = broadcast(x[r]);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Vec weight = load_weight<store_form>(w, k * tile_outputs + v * width);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r][v] = fma(row[r], weight, sum[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

// All blocks of a segment against one tile; pieces of k in order, the sums kept between them.
template <int store_form>
void exact_tile(const Slot &slot, const std::byte *tile, const RowBlock *blocks, int32_t count, float *widened,
                float *sums) {
  const bool integer = slot.store == MOE_I4 || slot.store == MOE_I8;
  const int64_t inputs = integer ? slot.padded : slot.in;
  const int64_t piece = integer ? linear::widened_inputs : count > 1 ? 512 : inputs;
  for (int64_t k = 0; k < inputs; k += piece) {
    const int64_t run = least(piece, inputs - k);
    const std::byte *weights = tile + k * tile_outputs * (store_form == MOE_F32 ? 4 : 2);
    if (integer) {
      widen(slot, tile, k, k + run, widened);
      weights = reinterpret_cast<const std::byte *>(widened);
    }
    float *block_sums = sums;
    for (int32_t i = 0; i < count; ++i) {
      const RowBlock &block = blocks[i];
      const float *x = reinterpret_cast<const float *>(block.prepared) + k * block.rows;
      with_rows<exact_rows>(block.rows, [&]<int R>() { exact_piece<R, store_form>(weights, x, run, block_sums); });
      block_sums += block.rows * tile_outputs;
    }
  }
}

// ---- int8 ----------------------------------------------------------------------------------------------------------

// sums [R][32] = Σ over runs of step · (scale · Σ code_w·code_x − offset · Σ code_x)
template <int R, bool nibbles>
void int8_block(const Slot &slot, const std::byte *tile, const std::byte *prepared, float *sums) {
  const GroupLayout layout(slot);
  const int64_t run = slot.run(), runs = slot.runs();
  const std::byte *x = prepared;
  const float *const steps = reinterpret_cast<const float *>(prepared + slot.padded * R);
  const int32_t *const code_sums = reinterpret_cast<const int32_t *>(steps + runs * R);
  const std::byte *codes = tile + layout.head;
  const std::byte *head = tile;
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = zero();

  for (int64_t b = 0; b < runs; ++b) {
    if (slot.group) {
      head = tile + b * layout.bytes;
      codes = head + layout.head;
    }
    Ints dots[R][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) dots[r][v] = zero_ints();
    const int64_t inputs = least(run, slot.padded - b * run);
    if constexpr (nibbles) {
      const Ints low = broadcast_ints(0x0f0f0f0f);
      for (int64_t k = 0; k < inputs; k += 8, codes += 128, x += 8 * R) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
          const Ints lanes = load_ints(codes + v * width * 4);
          const Ints w0 = bit_and(lanes, low), w1 = bit_and(shift_right<4>(lanes), low);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) {
            int32_t x0, x1;
            __builtin_memcpy(&x0, x + r * 4, 4);
            __builtin_memcpy(&x1, x + (R + r) * 4, 4);
            dots[r][v] = dot_nibble(dots[r][v], w0, broadcast_ints(x0));
            dots[r][v] = dot_nibble(dots[r][v], w1, broadcast_ints(x1));
          }
        }
      }
    } else {
      for (int64_t k = 0; k < inputs; k += 4, codes += 128, x += 4 * R) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
          const Ints w = load_ints(codes + v * width * 4);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) {
            int32_t x0;
            __builtin_memcpy(&x0, x + r * 4, 4);
            dots[r][v] = dot(dots[r][v], w, broadcast_ints(x0));
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Vec scale = layout.value(head, v);
      const Vec offset = layout.offsets ? layout.value(head + layout.value_bytes, v) : zero();
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const int32_t total = code_sums[b * R + r];
        const Ints exact = sub(dots[r][v], broadcast_ints(total * (nibbles ? 8 : 128)));  // codes are stored + 8, + 128
        const Vec value = fnma(offset, broadcast(static_cast<float>(total)), mul(scale, to_float(exact)));
        sum[r][v] = fma(broadcast(steps[b * R + r]), value, sum[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + r * tile_outputs + v * width, sum[r][v]);
}

void int8_tile(const Slot &slot, const std::byte *tile, const RowBlock *blocks, int32_t count, float *sums) {
  for (int32_t i = 0; i < count; ++i) {
    const RowBlock &block = blocks[i];
    with_rows<int8_rows>(block.rows, [&]<int R>() {
      if (slot.store == MOE_I4) {
        int8_block<R, true>(slot, tile, block.prepared, sums);
      } else {
        int8_block<R, false>(slot, tile, block.prepared, sums);
      }
    });
    sums += block.rows * tile_outputs;
  }
}

// ---- epilogue ------------------------------------------------------------------------------------------------------

Vec activate(int32_t activation, Vec a) {
  switch (activation) {
    case MOE_RELU:
      return max(zero(), a);
    case MOE_GELU:
      return gelu(a);
    case MOE_GELU_TANH:
    case MOE_GEGLU:
      return gelu_tanh(a);
    case MOE_SILU:
    case MOE_SWIGLU:
      return silu(a);
    default:
      return a;
  }
}

void finish(const Call &call, const Slot &slot, int64_t tile, const RowBlock *blocks, int32_t count,
            const float *sums) {
  const int columns = slot.gated ? tile_outputs / 2 : tile_outputs;
  const float *const bias = slot.bias ? slot.bias + tile * tile_outputs : nullptr;
  for (int32_t i = 0; i < count; ++i) {
    for (int32_t r = 0; r < blocks[i].rows; ++r, sums += tile_outputs) {
      const int64_t row = (blocks[i].first + r) * call.y_width;
      for (int v = 0; v < columns / width; ++v) {
        const int64_t column = tile * columns + v * width;
        const int64_t left = slot.columns() - column;
        if (left <= 0) break;
        Vec a = load(sums + v * width);
        if (bias) a = add(a, load(bias + v * width));
        a = activate(call.activation, a);
        if (slot.gated) {
          Vec up = load(sums + columns + v * width);
          if (bias) up = add(up, load(bias + columns + v * width));
          a = mul(a, up);
        }
        float *const y = call.y + row + column;
        if (left >= width) {
          if (call.residual) a = add(a, load(call.residual + row + column));
          store(y, a);
        } else {
          if (call.residual) a = add(a, load_part(call.residual + row + column, left));
          store_part(y, a, left);
        }
      }
    }
  }
}

// Past the slot's own width: 0 (+ residual).
void clear_columns(const Call &call, const RowBlock &block, int64_t begin) {
  for (int64_t row = block.first; row < block.first + block.rows; ++row) {
    for (int64_t column = begin; column < call.y_width; ++column) {
      const int64_t at = row * call.y_width + column;
      call.y[at] = call.residual ? call.residual[at] : 0.0f;
    }
  }
}

void tiles(const Call &call, const RowBlock *blocks, int32_t count, int64_t begin, int64_t end, float *thread_scratch) {
  const Slot &slot = call.slots[blocks[0].slot];
  float *const widened = thread_scratch;
  float *const sums = thread_scratch + linear::widened_inputs * tile_outputs;
  int64_t rows = 0;
  for (int32_t i = 0; i < count; ++i) rows += blocks[i].rows;
  for (int64_t index = begin; index < end; ++index) {
    const std::byte *const tile = slot.tiles + index * slot.tile_bytes;
    if (call.int8) {
      int8_tile(slot, tile, blocks, count, sums);
    } else {
      for (int64_t i = 0; i < rows * tile_outputs; i += width) store(sums + i, zero());
      if (slot.store == MOE_F16) {
        exact_tile<MOE_F16>(slot, tile, blocks, count, widened, sums);
      } else if (slot.store == MOE_BF16) {
        exact_tile<MOE_BF16>(slot, tile, blocks, count, widened, sums);
      } else {
        exact_tile<MOE_F32>(slot, tile, blocks, count, widened, sums);
      }
    }
    finish(call, slot, index, blocks, count, sums);
  }
  if (end == slot.tile_count && slot.columns() < call.y_width) {
    for (int32_t i = 0; i < count; ++i) clear_columns(call, blocks[i], slot.columns());
  }
}

}  // namespace

const linear::Kernels linear_kernels{exact_rows, int8_rows, prepare, tiles};

}  // namespace moe::cpu::MOE_ISA
