// From packed weights (packed.h) to operands of matrix products, in registers.
//
// How to use it: a unit is 64 columns, 4 steps, of a panel; a lane holds `chunks` values of 16 bytes of it, chunk i of unit u
// of a panel being chunks[chunks_of(store, 4) · u + i] at [lane]. In exact forms `unpack` gives a step's operand, as `planes`
// fragments whose sum is the weight, for `multiply<form>`; plane i meets plane j of the activations where i + j ≤ 2. In the
// int8 form `unpack` gives the operand of two steps (m16n8k32); where the store is i4 its bytes are 16 times the codes, so
// that a sum is exact after `whole_sum`.
//
//   const uint4 unit[Fragment::chunks] = …;
//   for (int step = 0; step < 4; step += Fragment::steps) {  // unrolled: the index must be known when compiled
//     uint32_t a[Fragment::planes][4];
//     Fragment::unpack(unit, step, a);
//     multiply<form>(sum, a[0], b);
//   }
#pragma once
#include <ptx.h>

#include "kernel/element.h"
#include "linear/packed.h"
#include "linear/rows.h"

namespace moe::cuda {

inline constexpr int unit_columns = 64, unit_steps = 4;

__host__ __device__ constexpr int row_element_bytes(RowForm form) { return form == RowForm::int8 ? 1 : 2; }

// Two neighbours as bf16: `parts` pairs, each what is left of those before it rounded to nearest. Where a value, or its
// first part, is not finite the other parts are zeros.
template <int parts>
__device__ __forceinline__ void split_bf16(float low, float high, uint32_t (&pairs)[parts]) {
#pragma unroll
  for (int i = 0; i < parts; ++i) {
    pairs[i] = ptx::pack_bf16(low, high);
    if (i + 1 == parts) break;
    const float first = __uint_as_float(pairs[i] << 16), second = __uint_as_float(pairs[i] & 0xffff0000u);
    low = isfinite(first) ? low - first : 0.0f;
    high = isfinite(second) ? high - second : 0.0f;
  }
}

__device__ __forceinline__ uint32_t word_of(const uint4 &chunk, int index) {
  return index == 0 ? chunk.x : index == 1 ? chunk.y : index == 2 ? chunk.z : chunk.w;
}

// Four-bit codes at bits 0 … 3 and 16 … 19 of `nibbles` (others are ignored) as a pair of floats: the code, with its sign bit
// turned, is the low mantissa of 128 (1024 in f16), from which 136 (1032) is taken away.
template <RowForm form>
__device__ __forceinline__ uint32_t float_pair_of_nibbles(uint32_t nibbles) {
  if constexpr (form == RowForm::f16)
    return ptx::fma_f16x2((nibbles & 0x000f000fu) ^ 0x64086408u, 0x3c003c00u, 0xe408e408u);
  return ptx::fma_bf16x2((nibbles & 0x000f000fu) ^ 0x43084308u, 0x3f803f80u, 0xc308c308u);
}
// Bytes 0 and 2 of `bytes` likewise. bf16 has room for seven bits only: the sign bit goes into what is taken away, 128 or 256.
template <RowForm form>
__device__ __forceinline__ uint32_t float_pair_of_bytes(uint32_t bytes) {
  if constexpr (form == RowForm::f16)
    return ptx::fma_f16x2((bytes & 0x00ff00ffu) ^ 0x64806480u, 0x3c003c00u, 0xe480e480u);
  return ptx::fma_bf16x2((bytes & 0x007f007fu) | 0x43004300u, 0x3f803f80u, (bytes & 0x00800080u) | 0xc300c300u);
}

// form and store that go together: bf16 with each store; f16 with F16, I8, I4; int8 with I8, I4.
template <RowForm form, int store>
struct WeightFragment {
  static constexpr bool integer = store == MOE_I4 || store == MOE_I8;
  static_assert(form == RowForm::bf16 || integer || (form == RowForm::f16 && store == MOE_F16));

  static constexpr int chunks = static_cast<int>(chunks_of(store, unit_steps));
  static constexpr int planes = form != RowForm::bf16 ? 1 : store == MOE_F32 ? 3 : store == MOE_F16 ? 2 : 1;
  static constexpr int steps = form == RowForm::int8 ? 2 : 1;  // of one product

  __device__ static __forceinline__ void unpack(const uint4 (&unit)[chunks], int step, uint32_t (&a)[planes][4]) {
    if constexpr (form == RowForm::int8) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = step + half;
        if constexpr (store == MOE_I4) {
          const uint32_t word = word_of(unit[0], at);
          a[0][2 * half] = word << 4 & 0xf0f0f0f0u;
          a[0][2 * half + 1] = word & 0xf0f0f0f0u;
        } else {
          a[0][2 * half] = word_of(unit[at / 2], at % 2 * 2);
          a[0][2 * half + 1] = word_of(unit[at / 2], at % 2 * 2 + 1);
        }
      }
    } else if constexpr (store == MOE_I4) {
      const uint32_t word = word_of(unit[0], step);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[0][i] = float_pair_of_nibbles<form>(word >> (4 * i));
    } else if constexpr (store == MOE_I8) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[0][i] = float_pair_of_bytes<form>(word_of(unit[step / 2], step % 2 * 2 + i % 2) >> (i / 2 * 8));
    } else if constexpr (store == MOE_F32) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 &chunk = unit[2 * step + i / 2];
        uint32_t pairs[planes];
        split_bf16(__uint_as_float(word_of(chunk, i % 2 * 2)), __uint_as_float(word_of(chunk, i % 2 * 2 + 1)), pairs);
#pragma unroll
        for (int plane = 0; plane < planes; ++plane) a[plane][i] = pairs[plane];
      }
    } else if constexpr (planes == 1) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[0][i] = word_of(unit[step], i);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t word = word_of(unit[step], i);
        uint32_t pairs[planes];
        split_bf16(ptx::f16_to_f32(static_cast<uint16_t>(word & 0xffffu)),
                   ptx::f16_to_f32(static_cast<uint16_t>(word >> 16)), pairs);
#pragma unroll
        for (int plane = 0; plane < planes; ++plane) a[plane][i] = pairs[plane];
      }
    }
  }

  // Of a finished sum of products: itself, exact where it is one of codes.
  __device__ static __forceinline__ float whole_sum(float sum) { return sum; }
  __device__ static __forceinline__ float whole_sum(int32_t sum) {
    return static_cast<float>(store == MOE_I4 ? sum >> 4 : sum);
  }
};

// What products of a form add up in.
template <RowForm form>
struct ProductOf {
  using Sum = float;
};
template <>
struct ProductOf<RowForm::int8> {
  using Sum = int32_t;
};

template <RowForm form>
__device__ __forceinline__ void multiply(typename ProductOf<form>::Sum (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  if constexpr (form == RowForm::int8) {
    ptx::mma_s8(d, a, b);
  } else if constexpr (form == RowForm::f16) {
    ptx::mma_f16(d, a, b);
  } else {
    ptx::mma_bf16(d, a, b);
  }
}

}  // namespace moe::cuda
