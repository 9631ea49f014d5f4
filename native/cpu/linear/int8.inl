// A tile of a dense integer matrix against codes: int32 sums of a run of inputs, then step · (scale · Σ − offset · Σx)
// added in f32 in order of the runs. Under an outer scale Σ scale·Σ is an int32 as well, and meets outer · step once.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Integer sums and f32 sums both stay in registers: 6 · 2 · 2 + … of 32.
constexpr int int8_rows = width == 16 ? 6 : width == 8 ? 2 : 1;

// dots [R][vectors] of the codes of `inputs` inputs, as they are stored: + 8 or + 128. x moves on.
template <int R, bool nibbles>
MOE_INLINE void dot_run(const std::byte *codes, const std::byte *&x, int64_t inputs, Ints (&dots)[R][vectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) dots[r][v] = zero_ints();
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
}

// sums [R][32] += Σ over runs of step · (scale · Σ code_w·code_x − offset · Σ code_x)
template <int R, bool nibbles>
void int8_block(const Matrix &matrix, const std::byte *tile, const std::byte *prepared, float *sums) {
  const GroupLayout layout(matrix);
  const int64_t run = matrix.run(), runs = matrix.runs();
  const std::byte *x = prepared;
  const float *const steps = reinterpret_cast<const float *>(prepared + matrix.padded * R);
  const int32_t *const code_sums = reinterpret_cast<const int32_t *>(steps + runs * R);
  Vec sum[R][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(sums + r * tile_outputs + v * width);

  for (int64_t b = 0; b < runs; ++b) {
    const int64_t group = matrix.group ? b : 0, begin = b * run;
    const std::byte *codes = layout.codes(tile, group);
    if (!matrix.group) codes += begin * tile_outputs / (nibbles ? 2 : 1);
    Ints dots[R][vectors];
    dot_run<R, nibbles>(codes, x, least(run, matrix.padded - begin), dots);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Vec scale = layout.scale(tile, group, v), offset = layout.offset(tile, group, v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const int32_t total = code_sums[b * R + r];
        const Ints exact = sub(dots[r][v], broadcast_ints(total * (nibbles ? 8 : 128)));
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

// The same under an outer scale: |scale · code| ≤ 127, so that the int32 sum holds channel_run inputs.
template <int R>
void dual_block(const Matrix &matrix, const std::byte *tile, const std::byte *prepared, float *sums) {
  const GroupLayout layout(matrix);
  const int64_t runs = matrix.runs(), most = channel_run / matrix.group;
  const std::byte *x = prepared;
  const float *const steps = reinterpret_cast<const float *>(prepared + matrix.padded * R);
  const int32_t *const code_sums = reinterpret_cast<const int32_t *>(steps + runs * R);
  for (int64_t first = 0; first < runs; first += most) {
    Ints total[R][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) total[r][v] = zero_ints();
    for (int64_t b = first; b < least(runs, first + most); ++b) {
      Ints dots[R][vectors];
      dot_run<R, true>(layout.codes(tile, b), x, least(matrix.group, matrix.padded - b * matrix.group), dots);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const Ints scale = layout.inner(tile, b, v);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Ints exact = sub(dots[r][v], broadcast_ints(code_sums[b * R + r] * 8));
          total[r][v] = add(total[r][v], mul(scale, exact));
        }
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Vec outer = layout.outer(tile, v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        float *const at = sums + r * tile_outputs + v * width;
        store(at, fma(broadcast(steps[r]), mul(outer, to_float(total[r][v])), load(at)));
      }
    }
  }
}

void int8_tile(const Matrix &matrix, int64_t index, int64_t form, const RowBlock *blocks, int32_t count, float *sums) {
  const std::byte *const tile = matrix.tiles + index * matrix.tile_bytes;
  for (int32_t i = 0; i < count; ++i) {
    const RowBlock &block = blocks[i];
    const std::byte *const x = block.form(form);
    with_rows<int8_rows>(block.rows, [&]<int R>() {
      if (matrix.outer >= 0) {
        dual_block<R>(matrix, tile, x, sums);
      } else if (matrix.store == MOE_I4) {
        int8_block<R, true>(matrix, tile, x, sums);
      } else {
        int8_block<R, false>(matrix, tile, x, sums);
      }
    });
    sums += block.rows * tile_outputs;
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
