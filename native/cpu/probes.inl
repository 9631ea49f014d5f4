// The loops of probes.h on the vocabulary. Ten chains hide the latency of a multiply-add (4 cycles × 2 units) and of a
// dot product.
#include "probes.h"

namespace moe::cpu::MOE_ISA {
namespace {

constexpr int chains = 10;
volatile float keep_float;  // a result that nobody may drop
volatile int32_t keep_int;

int32_t probe_read(const std::byte *from, int64_t bytes) {
  constexpr int lines = 8;
  constexpr int64_t step = lines * width * 4;
  Ints part[lines];
#pragma GCC unroll 8
  for (int i = 0; i < lines; ++i) part[i] = zero_ints();
  for (int64_t at = 0; at + step <= bytes; at += step) {
#pragma GCC unroll 8
    for (int i = 0; i < lines; ++i) part[i] = bit_xor(part[i], load_ints(from + at + i * width * 4));
  }
  Ints all = zero_ints();
  for (int i = 0; i < lines; ++i) all = bit_xor(all, part[i]);
  return sum(all);
}

double probe_multiply(int64_t rounds) {
  Vec a[chains];
#pragma GCC unroll 10
  for (int i = 0; i < chains; ++i) a[i] = broadcast(static_cast<float>(i));
  const Vec b = broadcast(0.999f), c = broadcast(0.001f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 10
    for (int i = 0; i < chains; ++i) a[i] = fma(a[i], b, c);
  }
  Vec all = zero();
  for (int i = 0; i < chains; ++i) all = add(all, a[i]);
  keep_float = sum(all);
  return static_cast<double>(rounds) * chains * width * 2;
}

double probe_dot(int64_t rounds) {
  Ints a[chains];
#pragma GCC unroll 10
  for (int i = 0; i < chains; ++i) a[i] = broadcast_ints(i);
  Ints b = broadcast_ints(0x01020304);
  const Ints c = broadcast_ints(0x01fe01fe);
  for (int64_t r = 0; r < rounds; ++r) {
    b = add(b, broadcast_ints(0x00000001));  // so that nothing can be hoisted
#pragma GCC unroll 10
    for (int i = 0; i < chains; ++i) a[i] = dot(a[i], b, c);
  }
  Ints all = zero_ints();
  for (int i = 0; i < chains; ++i) all = bit_xor(all, a[i]);
  keep_int = sum(all);
  return static_cast<double>(rounds) * chains * width * 4 * 2;
}

}  // namespace

const Probes probes{probe_read, probe_multiply, probe_dot};

}  // namespace moe::cpu::MOE_ISA
