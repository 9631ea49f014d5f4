// The vocabulary in plain C++ on the compiler's own vectors of 4 floats: for every machine without a wider table.
// fma here is a product and a sum, each rounded: the same everywhere, and fast without the instruction.
#pragma once
#include <cstdint>
#include <cstring>

#define MOE_INLINE [[gnu::always_inline]] inline

namespace moe::cpu::plain {

inline constexpr int width = 4;  // floats of a Vec
inline constexpr int registers = 16;

using Floats4 = float __attribute__((vector_size(16)));
using Ints4 = int32_t __attribute__((vector_size(16)));
using Words4 = uint32_t __attribute__((vector_size(16)));

struct Vec {
  Floats4 v;
};
struct Ints {  // 4 int32, or 16 bytes for the dot products
  Ints4 v;
};
struct Mask {  // all ones in a chosen lane
  Ints4 v;
};

template <typename To, typename From>
MOE_INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

MOE_INLINE Vec load(const float *p) {
  Vec a;
  std::memcpy(&a.v, p, sizeof a.v);
  return a;
}
MOE_INLINE Vec zero() { return {Floats4{}}; }
MOE_INLINE Vec load_part(const float *p, int64_t n) {  // n < width; zeros after n
  Vec a = zero();
  for (int64_t i = 0; i < n; ++i) a.v[i] = p[i];
  return a;
}
MOE_INLINE void store(float *p, Vec a) { std::memcpy(p, &a.v, sizeof a.v); }
MOE_INLINE void store_past_caches(float *p, Vec a) { store(p, a); }
MOE_INLINE void fence_past_caches() {}
MOE_INLINE void store_part(float *p, Vec a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}
MOE_INLINE Vec broadcast(float a) { return {Floats4{a, a, a, a}}; }

MOE_INLINE float widen_f16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return bits<float>(sign | ((magnitude << 13) + (112u << 23)));
  return bits<float>(sign | bits<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f));
}
MOE_INLINE uint16_t narrow_f16(float value) {
  const uint32_t whole = bits<uint32_t>(value), magnitude = whole & 0x7fffffffu;
  const uint32_t sign = (whole >> 16) & 0x8000u;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u)
    return static_cast<uint16_t>(sign | (bits<uint32_t>(bits<float>(magnitude) + 0.5f) - 0x3f000000u));
  return static_cast<uint16_t>(sign | ((magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
}
MOE_INLINE Vec load_f16_part(const uint16_t *p, int64_t n) {
  Vec a = zero();
  for (int64_t i = 0; i < n; ++i) a.v[i] = widen_f16(p[i]);
  return a;
}
MOE_INLINE Vec load_bf16_part(const uint16_t *p, int64_t n) {
  Vec a = zero();
  for (int64_t i = 0; i < n; ++i) a.v[i] = bits<float>(static_cast<uint32_t>(p[i]) << 16);
  return a;
}
MOE_INLINE Vec load_f16(const uint16_t *p) { return load_f16_part(p, width); }
MOE_INLINE Vec load_bf16(const uint16_t *p) { return load_bf16_part(p, width); }
MOE_INLINE void store_f16(uint16_t *p, Vec a) {
  for (int i = 0; i < width; ++i) p[i] = narrow_f16(a.v[i]);
}
MOE_INLINE void store_bf16(uint16_t *p, Vec a) {  // round half even; NaN stays NaN
  for (int i = 0; i < width; ++i) {
    const uint32_t whole = bits<uint32_t>(static_cast<float>(a.v[i]));
    const bool nan = (whole & 0x7fffffffu) > 0x7f800000u;
    p[i] = static_cast<uint16_t>((nan ? whole | 0x400000u : whole + 0x7fffu + ((whole >> 16) & 1u)) >> 16);
  }
}

MOE_INLINE Vec add(Vec a, Vec b) { return {a.v + b.v}; }
MOE_INLINE Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
MOE_INLINE Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
MOE_INLINE Vec div(Vec a, Vec b) { return {a.v / b.v}; }
MOE_INLINE Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }   // a·b + c
MOE_INLINE Vec fms(Vec a, Vec b, Vec c) { return {a.v * b.v - c.v}; }   // a·b − c
MOE_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {c.v - a.v * b.v}; }  // c − a·b
MOE_INLINE Vec select(Mask m, Vec yes, Vec no) {
  return {bits<Floats4>((bits<Ints4>(yes.v) & m.v) | (bits<Ints4>(no.v) & ~m.v))};
}
MOE_INLINE Mask greater(Vec a, Vec b) { return {a.v > b.v}; }
MOE_INLINE Mask not_equal(Vec a, Vec b) { return {a.v != b.v}; }  // true where either is NaN
MOE_INLINE bool any(Mask m) { return (m.v[0] | m.v[1] | m.v[2] | m.v[3]) != 0; }
MOE_INLINE Vec max(Vec a, Vec b) { return select(greater(a, b), a, b); }  // b where either is NaN
MOE_INLINE Vec min(Vec a, Vec b) { return select(greater(b, a), a, b); }  // b where either is NaN
MOE_INLINE Vec sqrt(Vec a) {
  for (int i = 0; i < width; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
MOE_INLINE Vec abs(Vec a) { return {bits<Floats4>(bits<Ints4>(a.v) & 0x7fffffff)}; }
MOE_INLINE Vec round(Vec a) {  // half even; sizes from 2^23 up are integers already
  const Vec magic = select(greater(zero(), a), broadcast(-0x1.8p23f), broadcast(0x1.8p23f));
  return select(greater(broadcast(0x1p22f), abs(a)), sub(add(a, magic), magic), a);
}
MOE_INLINE Ints to_ints(Vec a) {  // round half even; out of range and NaN: the lowest
  const Vec whole = round(a);
  Ints n{};
  for (int i = 0; i < width; ++i) {
    const bool inside = whole.v[i] >= -0x1p31f && whole.v[i] < 0x1p31f;
    n.v[i] = inside ? static_cast<int32_t>(whole.v[i]) : INT32_MIN;
  }
  return n;
}
MOE_INLINE Vec scale_power(Vec a, Vec n) {  // a · 2^n, n integral, |n| ≤ 250: two factors, each a normal number
  const Words4 whole = bits<Words4>(to_ints(n).v);
  const Words4 half = bits<Words4>(bits<Ints4>(whole) >> 1);
  return {a.v * bits<Floats4>((half + 127u) << 23) * bits<Floats4>((whole - half + 127u) << 23)};
}

MOE_INLINE float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
// The sums of four vectors, to p[0 … 3].
MOE_INLINE void store_sums(float *p, Vec a, Vec b, Vec c, Vec d) {
  p[0] = sum(a);
  p[1] = sum(b);
  p[2] = sum(c);
  p[3] = sum(d);
}
MOE_INLINE float maximum(Vec a) {
  const float x = a.v[0] > a.v[2] ? a.v[0] : a.v[2], y = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return x > y ? x : y;
}

MOE_INLINE Ints load_ints(const void *p) {
  Ints a;
  std::memcpy(&a.v, p, sizeof a.v);
  return a;
}
MOE_INLINE Ints load_int8s(const void *p) {  // `width` signed bytes, one to a lane
  const auto *const bytes = static_cast<const int8_t *>(p);
  return {Ints4{bytes[0], bytes[1], bytes[2], bytes[3]}};
}
MOE_INLINE Ints broadcast_ints(int32_t a) { return {Ints4{a, a, a, a}}; }
MOE_INLINE Ints zero_ints() { return {Ints4{}}; }
MOE_INLINE Ints add(Ints a, Ints b) { return {a.v + b.v}; }
MOE_INLINE Ints sub(Ints a, Ints b) { return {a.v - b.v}; }
MOE_INLINE Ints mul(Ints a, Ints b) { return {a.v * b.v}; }
using Bytes16 = uint8_t __attribute__((vector_size(16)));
MOE_INLINE Ints sub_bytes(Ints a, Ints b) { return {bits<Ints4>(bits<Bytes16>(a.v) - bits<Bytes16>(b.v))}; }
MOE_INLINE Ints bit_and(Ints a, Ints b) { return {a.v & b.v}; }
MOE_INLINE Ints bit_xor(Ints a, Ints b) { return {a.v ^ b.v}; }
template <int count>
MOE_INLINE Ints shift_left(Ints a) {
  return {bits<Ints4>(bits<Words4>(a.v) << count)};
}
template <int count>
MOE_INLINE Ints shift_right(Ints a) {  // zeros come in
  return {bits<Ints4>(bits<Words4>(a.v) >> count)};
}
MOE_INLINE Ints shift_right(Ints a, int count) { return {bits<Ints4>(bits<Words4>(a.v) >> count)}; }
template <int count>
MOE_INLINE Ints shift_right_signed(Ints a) {
  return {a.v >> count};
}
MOE_INLINE Vec to_float(Ints a) { return {__builtin_convertvector(a.v, Floats4)}; }
MOE_INLINE void store_bytes(int8_t *p, Ints a) {  // lanes saturated to int8
  for (int i = 0; i < width; ++i) {
    const int32_t lane = a.v[i];
    p[i] = static_cast<int8_t>(lane < -128 ? -128 : lane > 127 ? 127 : lane);
  }
}
MOE_INLINE int32_t sum(Ints a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
// The low nibble of each lane, 0 … 15, as the float −8 … 7.
MOE_INLINE Vec nibble_to_float(Ints a) { return to_float({(a.v & 15) - 8}); }
// lane i: sum + Σ_{j<4} (unsigned byte w[4i + j] − dot_excess) · signed byte x[4i + j].
inline constexpr int dot_excess = 0;
MOE_INLINE Ints dot(Ints sum, Ints w, Ints x) {
  const Words4 wide = bits<Words4>(w.v), other = bits<Words4>(x.v);
  Ints4 total = sum.v + bits<Ints4>(wide & 255u) * (bits<Ints4>(other << 24) >> 24);
  total += bits<Ints4>((wide >> 8) & 255u) * (bits<Ints4>(other << 16) >> 24);
  total += bits<Ints4>((wide >> 16) & 255u) * (bits<Ints4>(other << 8) >> 24);
  return {total + bits<Ints4>(wide >> 24) * (bits<Ints4>(other) >> 24)};
}
MOE_INLINE Ints dot_nibble(Ints sum, Ints w, Ints x) { return dot(sum, w, x); }

// lane i: p[index[i]]; `lookup`: of indices below lookup_floats.
inline constexpr int lookup_floats = 256;
MOE_INLINE Vec lookup(const float *p, Ints index) {
  return {Floats4{p[index.v[0]], p[index.v[1]], p[index.v[2]], p[index.v[3]]}};
}
MOE_INLINE Vec gather(const float *p, Ints index) { return lookup(p, index); }
// byte i: p[index[i]] of bytes below near_bytes, or far_bytes.
inline constexpr int near_bytes = 32, far_bytes = 32;
MOE_INLINE Ints lookup_near(const void *p, Ints index) {
  const auto *const from = static_cast<const uint8_t *>(p);
  Bytes16 found;
  const Bytes16 at = bits<Bytes16>(index.v);
  for (int i = 0; i < 16; ++i) found[i] = from[at[i]];
  return {bits<Ints4>(found)};
}
MOE_INLINE Ints lookup_far(const void *p, Ints index) { return lookup_near(p, index); }

}  // namespace moe::cpu::plain

#include "simd/math.inl"
