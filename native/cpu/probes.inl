// The loops of probes.h on the vocabulary. A multiply-add or a dot product takes 4 or 5 cycles on 2 units, so 8 to 10
// chains fill them; which count does best differs between processors.
#include "probes.h"

namespace moe::cpu::MOE_ISA {
namespace {

volatile float keep_float;  // a result that nobody may drop
volatile int32_t keep_int;

int32_t probe_read(const std::byte *from, int64_t bytes, ReadPattern pattern) {
  constexpr int lines = 8;
  constexpr int64_t step = lines * width * 4;
  const int64_t run = bytes / pattern.streams;
  Ints part[lines];
#pragma GCC unroll 8
  for (int i = 0; i < lines; ++i) part[i] = zero_ints();
  for (int64_t at = 0; at + step <= run; at += step) {
    for (int stream = 0; stream < pattern.streams; ++stream) {
      const std::byte *const place = from + stream * run + at;
      if (pattern.ahead > 0) {
        for (int64_t line = 0; line < step; line += 64) __builtin_prefetch(place + pattern.ahead + line);
      }
#pragma GCC unroll 8
      for (int i = 0; i < lines; ++i) part[i] = bit_xor(part[i], load_ints(place + i * width * 4));
    }
  }
  Ints all = zero_ints();
  for (int i = 0; i < lines; ++i) all = bit_xor(all, part[i]);
  return sum(all);
}

template <int chains>
double probe_multiply(int64_t rounds) {
  Vec a[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) a[i] = broadcast(static_cast<float>(i));
  const Vec b = broadcast(0.999f), c = broadcast(0.001f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) a[i] = fma(a[i], b, c);
  }
  Vec all = zero();
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) all = add(all, a[i]);
  keep_float = sum(all);
  return static_cast<double>(rounds) * chains * width * 2;
}

#if defined(MOE_MATRIX_PRODUCTS)
constexpr int lane_bytes = 8;  // whose products a lane sums
MOE_INLINE Ints multiply_bytes(Ints sum, Ints a, Ints b) { return matrix_product(sum, a, b); }
#else
constexpr int lane_bytes = 4;
MOE_INLINE Ints multiply_bytes(Ints sum, Ints a, Ints b) { return dot(sum, a, b); }
#endif

template <int chains>
double probe_dot(int64_t rounds) {
  Ints a[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) a[i] = broadcast_ints(i);
  alignas(64) int32_t weights[width];
  for (int32_t &one : weights) one = 0x01020304;
  const Ints c = broadcast_ints(0x01fe01fe);
  for (int64_t r = 0; r < rounds; ++r) {
    __asm__ volatile("" : "+m"(weights));  // read anew, so that no round can be folded into another
    const Ints b = load_ints(weights);
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) a[i] = multiply_bytes(a[i], b, c);
  }
  Ints all = zero_ints();
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) all = bit_xor(all, a[i]);
  keep_int = sum(all);
  return static_cast<double>(rounds) * chains * width * lane_bytes * 2;
}

#if defined(MOE_TILES)
// Four chains of sums, as many as the registers leave.
template <bool bf16>
double probe_tiles(int64_t rounds) {
  Tiles tiles;
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) shapes.set(t, tile_rows, tile_depth);
  tiles.configure(shapes);
  for (int64_t r = 0; r < rounds; ++r) {
    if constexpr (bf16) {
      tiles.multiply_pairs<0, 4, 6>();
      tiles.multiply_pairs<1, 4, 7>();
      tiles.multiply_pairs<2, 5, 6>();
      tiles.multiply_pairs<3, 5, 7>();
    } else {
      tiles.multiply<0, 4, 6>();
      tiles.multiply<1, 4, 7>();
      tiles.multiply<2, 5, 6>();
      tiles.multiply<3, 5, 7>();
    }
  }
  return static_cast<double>(rounds) * 4 * tile_rows * (tile_depth / 4) * (bf16 ? tile_depth / 2 : tile_depth) * 2;
}
#elif defined(MOE_BF16_PAIRS)
template <int chains>
double probe_pairs(int64_t rounds) {
  Vec a[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) a[i] = broadcast(static_cast<float>(i));
  const Ints b = broadcast_ints(0x3f003f00);  // 0.5
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) a[i] = dot_pairs(a[i], b, b);
  }
  Vec all = zero();
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) all = add(all, a[i]);
  keep_float = sum(all);
  return static_cast<double>(rounds) * chains * width * 2 * 2;
}
#endif

}  // namespace

const Probes probes{
    probe_read,
    {probe_multiply<8>, probe_multiply<10>, probe_multiply<12>},
#if defined(MOE_TILES)
    {probe_tiles<false>, probe_tiles<false>, probe_tiles<false>},
    {probe_tiles<true>, probe_tiles<true>, probe_tiles<true>},
#else
    {probe_dot<8>, probe_dot<10>, probe_dot<12>},
#if defined(MOE_BF16_PAIRS)
    {probe_pairs<8>, probe_pairs<10>, probe_pairs<12>},
#else
    {},
#endif
#endif
};

}  // namespace moe::cpu::MOE_ISA
