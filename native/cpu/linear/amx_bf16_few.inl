// Few rows against bf16 where there are tile registers (simd/amx.h), in vectors that add as the tiles do, so that a row has the
// same bits beside any number of others: in steps of 32 inputs, the even and the odd ones in a sum each, from 0 and in order;
// then both are added, and that to the row's sum. Subnormal numbers count as 0.
//
// Layout: x [steps][R][32]; weights of a dense tile and values of an n:m one as tile.h has them.
// Bound: memory. Of two lines of dense weights, 128 bytes, ten instructions for one row go to two ports, and of a line of
// sparse values twenty: 25 and 6 bytes a cycle. Tiles would widen all weights first for a sixteenth of their rows.
// Reached: one row of 4096 → 14336 in 4.9 ms where tiles took 6.2, two Emerald Rapids cores, 2026-11-30 (docs/performance.md).
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

constexpr int most_few_rows = 4;

// The sums of a step.
template <int R>
struct StepSums {
  Vec even[R][vectors], odd[R][vectors];

  MOE_INLINE void clear() {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) even[r][v] = odd[r][v] = zero();
  }
  MOE_INLINE void add_to(float *sums) const {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        float *const to = sums + (r * vectors + v) * width;
        store(to, add(load(to), add(even[r][v], odd[r][v])));
      }
  }
};

// Sums [R][32] with those of the even outputs before those of the odd ones, as both halves of a line's lanes give them.
template <int R>
class ParitySums {
 public:
  explicit ParitySums(float *sums) : sums_(sums) {
    for (int i = 0; i < R * tile_outputs; ++i) apart_[place(i)] = sums[i];
  }
  ~ParitySums() {
    for (int i = 0; i < R * tile_outputs; ++i) sums_[i] = apart_[place(i)];
  }
  float *get() { return apart_; }

 private:
  static int place(int i) { return i / tile_outputs * tile_outputs + i % 2 * width + i % tile_outputs / 2; }
  static_assert(vectors == 2);

  float *sums_;
  alignas(64) float apart_[R * tile_outputs];
};

// The bf16 elements 2i, or 2i + 1, of a line.
MOE_INLINE Vec even_elements(Ints line) { return as_floats(shift_left<16>(line)); }
MOE_INLINE Vec odd_elements(Ints line) {
  return as_floats(bit_and(line, broadcast_ints(static_cast<int32_t>(0xffff0000u))));
}

// sums [R][32] += x · w, w [inputs][32]
template <int R>
[[gnu::noinline]] void few_dense(const std::byte *w, int64_t inputs, const std::byte *x, float *sums) {
  constexpr int64_t line = tile_outputs * 2;
  ParitySums<R> apart(sums);
  for (int64_t k = 0; k < inputs; k += rounded_step, x += R * rounded_step * 2) {
    const int64_t now = least(rounded_step, inputs - k);
    StepSums<R> step;
    step.clear();
    for (int64_t i = 0; i < now; i += 2, w += 2 * line) {
      linear::prefetch(w + prefetch_bytes);
      linear::prefetch(w + prefetch_bytes + line);
      const Ints first = load_ints(w), second = i + 1 < now ? load_ints(w + line) : zero_ints();
      const Vec of_even[vectors] = {even_elements(first), odd_elements(first)},
                of_odd[vectors] = {even_elements(second), odd_elements(second)};
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Ints pair = broadcast_code(x + r * rounded_step * 2 + i * 2);
        const Vec even = even_elements(pair), odd = odd_elements(pair);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
          step.even[r][v] = fma(even, of_even[v], step.even[r][v]);
          step.odd[r][v] = fma(odd, of_odd[v], step.odd[r][v]);
        }
      }
    }
    step.add_to(apart.get());
  }
}

// sums [R][32] += S·x, in blocks of inputs that divide a step. step_bytes: from step to step of x, which may have other rows.
template <int R>
[[gnu::noinline]] void few_sparse(const Sparse &sparse, int64_t tile, const std::byte *x, int64_t step_bytes,
                                  float *sums) {
  const std::byte *const values = sparse.values.tiles + tile * sparse.values.tile_bytes;
  const Places places(sparse, tile);
  StepSums<R> step;
  step.clear();
  Ints row[R];
  int32_t current = -1;
  const auto put = [&]<int j>(int64_t at) {
    if (at + j >= sparse.values.in) return;
    const int32_t block = sparse.blocks[at + j], index = block / static_cast<int32_t>(rounded_step);
    if (index != current) {
      if (current >= 0) step.add_to(sums);
      step.clear();
      current = index;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) row[r] = load_ints(x + index * step_bytes + r * rounded_step * 2);
    }
    const Ints within = broadcast_ints(block % static_cast<int32_t>(rounded_step));
    const std::byte *const line = values + (at + j) * tile_outputs * 2;
    linear::prefetch(line + prefetch_bytes);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Ints input = add(byte_times<j, 0>(places.step(at / 4, v)), within);
      const Vec value = as_floats(shift_left<16>(load_words(line + v * width * 2)));
      const Mask odd = odd_lanes(input);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec found = as_floats(shift_left<16>(lookup_words(row[r], input)));
        step.even[r][v] = fma_unless(odd, found, value, step.even[r][v]);
        step.odd[r][v] = fma_where(odd, found, value, step.odd[r][v]);
      }
    }
  };
  for (int64_t at = 0; at < sparse.values.in; at += 4) {
    places.ask(at / 4);
    put.template operator()<0>(at);
    put.template operator()<1>(at);
    put.template operator()<2>(at);
    put.template operator()<3>(at);
  }
  if (current >= 0) step.add_to(sums);
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
