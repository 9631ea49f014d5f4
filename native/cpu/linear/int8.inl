// A tile of a dense integer matrix against codes: int32 sums of a run of inputs, then step · (scale · Σ − offset · Σx)
// added in f32 in order of the runs. Under an outer scale Σ scale·Σ is an int32 as well, and meets outer · step once.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Integer sums, a step of weights and a broadcast fit the registers: 12 · 2 + 2 + 2 of 32; 2 · 4 + 4 + 2 of 16; 2 · 8 + 8
// + 2 of 32. The f32 sums, which a group meets once, stay in memory.
constexpr int int8_rows = width == 16 ? 12 : registers * width == 128 ? 2 : 1;

MOE_INLINE Ints broadcast_code(const std::byte *x) {  // four inputs of a row
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return broadcast_ints(four);
}

// What is asked of memory while a step of 128 bytes is worked on: the lines at `at`, which then moves on by `stride`.
struct Ahead {
  const std::byte *at;
  int64_t stride;
  bool own = false;  // `at` keeps a page before what this block itself reads

  // A run begins: its scales, then its codes.
  MOE_INLINE void start(const std::byte *scales, const std::byte *codes) {
    if (!own) return;
    for (; scales < codes; scales += 64) linear::prefetch(scales + prefetch_bytes);
    at = codes + prefetch_bytes;
  }
  MOE_INLINE void step() {
    linear::prefetch(at);
    linear::prefetch(at + 64);
    at += stride;
  }
};

// A step of weights, inputs 4 · half … of it where they are nibbles: one vector of unsigned bytes for each of `vectors`.
template <bool nibbles, int half>
MOE_INLINE void load_step(const std::byte *codes, Ints (&w)[vectors]) {
#pragma GCC unroll 16
  for (int v = 0; v < vectors; ++v) {
    w[v] = load_ints(codes + v * width * 4);
    if constexpr (nibbles) w[v] = bit_and(half ? shift_right<4>(w[v]) : w[v], broadcast_ints(0x0f0f0f0f));
  }
}

template <int R, bool nibbles>
MOE_INLINE void multiply_step(const Ints (&w)[vectors], const std::byte *x, Ints (&dots)[R][vectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Ints codes = broadcast_code(x + r * 4);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      dots[r][v] = nibbles ? dot_nibble(dots[r][v], w[v], codes) : dot(dots[r][v], w[v], codes);
    }
  }
}

// dots [R][vectors] += Σ codes of w (as they are stored: + 8 or + 128) · codes of x over `inputs` inputs.
template <int R, bool nibbles>
MOE_INLINE void dot_run(const std::byte *codes, Ahead &ahead, const std::byte *x, int64_t inputs,
                        Ints (&dots)[R][vectors]) {
  Ints w[vectors];
  if constexpr (nibbles) {
    for (int64_t k = 0; k < inputs; k += 8, codes += 128, x += 8 * R) {
      ahead.step();
      load_step<true, 0>(codes, w);
      multiply_step<R, true>(w, x, dots);
      load_step<true, 1>(codes, w);
      multiply_step<R, true>(w, x + 4 * R, dots);
    }
  } else {
    for (int64_t k = 0; k < inputs; k += 4, codes += 128, x += 4 * R) {
      ahead.step();
      load_step<false, 0>(codes, w);
      multiply_step<R, false>(w, x, dots);
    }
  }
}

// Sums that take back what the stored codes are above the true ones: −8 or −128 times Σ codes of x, unless dot does.
template <int R, bool nibbles>
MOE_INLINE void start_run(const int32_t *code_sums, Ints (&dots)[R][vectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    Ints start = zero_ints();
    if constexpr (nibbles || dot_excess == 0) {
      start = sub(start, shift_left<nibbles ? 3 : 7>(broadcast_ints(code_sums[r])));
    }
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) dots[r][v] = start;
  }
}

// at [width] += step · (scale · dots − offset · Σ codes of x)
template <bool offsets>
MOE_INLINE void add_scaled(float *at, Vec step, Vec scale, Vec offset, Ints dots, int32_t code_sum) {
  Vec value = mul(scale, to_float(dots));
  if constexpr (offsets) value = fnma(offset, to_float(broadcast_ints(code_sum)), value);
  store(at, fma(step, value, load(at)));
}

// sums [R][32] += step · (scale · Σ code_w·code_x − offset · Σ code_x) of one run.
template <int R, bool nibbles, bool offsets>
MOE_INLINE void add_run(const std::byte *codes, Ahead ahead, const Vec (&scale)[vectors], const Vec (&offset)[vectors],
                        const std::byte *x, int64_t inputs, const float *steps, const int32_t *code_sums, float *sums) {
  Ints dots[R][vectors];
  start_run<R, nibbles>(code_sums, dots);
  dot_run<R, nibbles>(codes, ahead, x, inputs, dots);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Vec step = broadcast(steps[r]);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      add_scaled<offsets>(sums + r * tile_outputs + v * width, step, scale[v], offset[v], dots[r][v], code_sums[r]);
    }
  }
}

// The same as a function of its own: inlined for more than two rows, GCC takes the sums of all runs for registers that are not
// there, and spills the integer ones.
template <int R, bool nibbles, bool offsets>
[[gnu::noinline]] void add_run_apart(const std::byte *codes, Ahead ahead, const Vec (&scale)[vectors],
                                     const Vec (&offset)[vectors], const std::byte *x, int64_t inputs,
                                     const float *steps, const int32_t *code_sums, float *sums) {
  add_run<R, nibbles, offsets>(codes, ahead, scale, offset, x, inputs, steps, code_sums, sums);
}

template <int R, bool nibbles, bool offsets>
void int8_block(const Matrix &matrix, const std::byte *tile, Ahead ahead, const std::byte *prepared, float *sums) {
  const GroupLayout layout(matrix);
  const int64_t run = matrix.run(), runs = matrix.runs();
  const float *steps = reinterpret_cast<const float *>(prepared + matrix.padded * R);
  const int32_t *code_sums = reinterpret_cast<const int32_t *>(steps + runs * R);
  for (int64_t b = 0; b < runs; ++b, steps += R, code_sums += R) {
    const int64_t group = matrix.group ? b : 0, begin = b * run;
    const std::byte *codes = layout.codes(tile, group);
    if (!matrix.group) codes += begin * tile_outputs / (nibbles ? 2 : 1);
    Vec scale[vectors], offset[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      scale[v] = layout.scale(tile, group, v);
      offset[v] = offsets ? layout.offset(tile, group, v) : zero();
    }
    ahead.start(layout.scales(tile, group), codes);
    const int64_t inputs = least(run, matrix.padded - begin);
    const std::byte *const x = prepared + begin * R;
    if constexpr (R <= 2) {
      add_run<R, nibbles, offsets>(codes, ahead, scale, offset, x, inputs, steps, code_sums, sums);
    } else {
      add_run_apart<R, nibbles, offsets>(codes, ahead, scale, offset, x, inputs, steps, code_sums, sums);
    }
    ahead.at += inputs / (nibbles ? 8 : 4) * ahead.stride;
  }
}

// The same under an outer scale: |scale · code| ≤ 127, so that the int32 sum holds channel_run inputs.
template <int R>
void dual_block(const Matrix &matrix, const std::byte *tile, Ahead ahead, const std::byte *prepared, float *sums) {
  const GroupLayout layout(matrix);
  const int64_t runs = matrix.runs(), most = channel_run / matrix.group;
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
      start_run<R, true>(code_sums + b * R, dots);
      const int64_t begin = b * matrix.group;
      const int64_t inputs = least(matrix.group, matrix.padded - begin);
      dot_run<R, true>(layout.codes(tile, b), ahead, prepared + begin * R, inputs, dots);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const Ints scale = layout.inner(tile, b, v);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) total[r][v] = add(total[r][v], mul(scale, dots[r][v]));
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

// Blocks of up to `most` rows.
template <int most = int8_rows>
void int8_tile(const Matrix &matrix, int64_t index, int64_t form, const RowBlock *blocks, int32_t count, float *sums) {
  const std::byte *const tile = matrix.tiles + index * matrix.tile_bytes;
  for (int32_t i = 0; i < count; ++i) {
    const RowBlock &block = blocks[i];
    const std::byte *const x = block.form(form);
    // The first block is what reads the tile; the others meanwhile ask for the next one, each its share.
    const int64_t others = count - 1;
    const Ahead ahead = i == 0 ? Ahead{tile + prefetch_bytes, 128, true}
                               : Ahead{tile + matrix.tile_bytes + matrix.tile_bytes / others * (i - 1), 128 / others};
    with_rows<most>(block.rows, [&]<int R>() {
      if (matrix.outer >= 0) {
        dual_block<R>(matrix, tile, ahead, x, sums);
      } else if (matrix.store == MOE_I4) {
        matrix.offset >= 0 ? int8_block<R, true, true>(matrix, tile, ahead, x, sums)
                           : int8_block<R, true, false>(matrix, tile, ahead, x, sums);
      } else {
        matrix.offset >= 0 ? int8_block<R, false, true>(matrix, tile, ahead, x, sums)
                           : int8_block<R, false, false>(matrix, tile, ahead, x, sums);
      }
    });
    sums += block.rows * tile_outputs;
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
