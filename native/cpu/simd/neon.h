// The vocabulary on NEON of ARMv8.2 with dot products: 4 floats, 4 int32 or 16 bytes a vector, 32 registers. One text for
// two sets: unsigned bytes meet signed ones in USDOT, and two rows at a time in USMMLA, where the including file is
// compiled with i8mm, else as signed bytes in SDOT.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#define MOE_INLINE [[gnu::always_inline]] inline

namespace moe::cpu::MOE_ISA {

inline constexpr int width = 4;  // floats of a Vec
inline constexpr int registers = 32;

struct Vec {
  float32x4_t v;
};
struct Ints {  // 4 int32, or 16 bytes for the dot products
  int32x4_t v;
};
struct Mask {  // all ones in a chosen lane
  uint32x4_t v;
};

MOE_INLINE uint8x16_t bytes(Ints a) { return vreinterpretq_u8_s32(a.v); }
MOE_INLINE int8x16_t signed_bytes(Ints a) { return vreinterpretq_s8_s32(a.v); }
MOE_INLINE Ints ints(uint8x16_t a) { return {vreinterpretq_s32_u8(a)}; }

MOE_INLINE Vec load(const float *p) { return {vld1q_f32(p)}; }
MOE_INLINE Vec load_part(const float *p, int64_t n) {  // n < width; zeros after n
  alignas(16) float whole[width] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load(whole);
}
MOE_INLINE void store(float *p, Vec a) { vst1q_f32(p, a.v); }
MOE_INLINE void store_past_caches(float *p, Vec a) { store(p, a); }
MOE_INLINE void fence_past_caches() {}
MOE_INLINE void store_part(float *p, Vec a, int64_t n) {
  alignas(16) float whole[width];
  store(whole, a);
  for (int64_t i = 0; i < n; ++i) p[i] = whole[i];
}
MOE_INLINE Vec broadcast(float a) { return {vdupq_n_f32(a)}; }
MOE_INLINE Vec zero() { return broadcast(0.0f); }

MOE_INLINE Vec load_f16(const uint16_t *p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
MOE_INLINE Vec load_bf16(const uint16_t *p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
MOE_INLINE Vec load_f16_part(const uint16_t *p, int64_t n) {
  alignas(8) uint16_t whole[width] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load_f16(whole);
}
MOE_INLINE Vec load_bf16_part(const uint16_t *p, int64_t n) {
  alignas(8) uint16_t whole[width] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load_bf16(whole);
}
MOE_INLINE void store_f16(uint16_t *p, Vec a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a.v))); }
MOE_INLINE void store_bf16(uint16_t *p, Vec a) {  // round half even; NaN stays NaN
  const uint32x4_t bits = vreinterpretq_u32_f32(a.v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t number = vceqq_f32(a.v, a.v);
  vst1_u16(p, vshrn_n_u32(vbslq_u32(number, rounded, vorrq_u32(bits, vdupq_n_u32(0x400000))), 16));
}

MOE_INLINE Mask greater(Vec a, Vec b) { return {vcgtq_f32(a.v, b.v)}; }
MOE_INLINE Mask not_equal(Vec a, Vec b) { return {vmvnq_u32(vceqq_f32(a.v, b.v))}; }  // true where either is NaN
MOE_INLINE Vec select(Mask m, Vec yes, Vec no) { return {vbslq_f32(m.v, yes.v, no.v)}; }
MOE_INLINE bool any(Mask m) { return vmaxvq_u32(m.v) != 0; }

MOE_INLINE Vec add(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
MOE_INLINE Vec sub(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
MOE_INLINE Vec mul(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
MOE_INLINE Vec div(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
MOE_INLINE Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }             // a·b + c
MOE_INLINE Vec fms(Vec a, Vec b, Vec c) { return {vfmaq_f32(vnegq_f32(c.v), a.v, b.v)}; }  // a·b − c
MOE_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {vfmsq_f32(c.v, a.v, b.v)}; }            // c − a·b
MOE_INLINE Vec max(Vec a, Vec b) { return select(greater(a, b), a, b); }                   // b where either is NaN
MOE_INLINE Vec min(Vec a, Vec b) { return select(greater(b, a), a, b); }                   // b where either is NaN
MOE_INLINE Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
MOE_INLINE Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
MOE_INLINE Vec round(Vec a) { return {vrndnq_f32(a.v)}; }  // half even
MOE_INLINE Vec scale_power(Vec a, Vec n) {  // a · 2^n, n integral, |n| ≤ 250: two factors, each a normal number
  const int32x4_t whole = vcvtq_s32_f32(n.v), half = vshrq_n_s32(whole, 1), bias = vdupq_n_s32(127);
  const float32x4_t one = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
  const float32x4_t two = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), bias), 23));
  return {vmulq_f32(vmulq_f32(a.v, one), two)};
}

MOE_INLINE float sum(Vec a) { return vaddv_f32(vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v))); }  // 4 → 2 → 1
// The sums of four vectors, to p[0 … 3]: neighbours added twice. Not the order of `sum`.
MOE_INLINE void store_sums(float *p, Vec a, Vec b, Vec c, Vec d) {
  vst1q_f32(p, vpaddq_f32(vpaddq_f32(a.v, b.v), vpaddq_f32(c.v, d.v)));
}
MOE_INLINE float maximum(Vec a) { return vmaxvq_f32(a.v); }

MOE_INLINE Ints load_ints(const void *p) { return ints(vld1q_u8(static_cast<const uint8_t *>(p))); }
MOE_INLINE Ints load_half(const void *p) {  // 8 bytes; zeros after them
  return ints(vcombine_u8(vld1_u8(static_cast<const uint8_t *>(p)), vcreate_u8(0)));
}
MOE_INLINE Ints load_int8s(const void *p) {  // `width` signed bytes, one to a lane
  uint32_t four;
  std::memcpy(&four, p, sizeof four);
  return {vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four))))};
}
MOE_INLINE Ints broadcast_ints(int32_t a) { return {vdupq_n_s32(a)}; }
MOE_INLINE Ints zero_ints() { return broadcast_ints(0); }
MOE_INLINE Ints add(Ints a, Ints b) { return {vaddq_s32(a.v, b.v)}; }
MOE_INLINE Ints sub(Ints a, Ints b) { return {vsubq_s32(a.v, b.v)}; }
MOE_INLINE Ints mul(Ints a, Ints b) { return {vmulq_s32(a.v, b.v)}; }
MOE_INLINE Ints sub_bytes(Ints a, Ints b) { return ints(vsubq_u8(bytes(a), bytes(b))); }
MOE_INLINE Ints bit_and(Ints a, Ints b) { return {vandq_s32(a.v, b.v)}; }
MOE_INLINE Ints bit_xor(Ints a, Ints b) { return {veorq_s32(a.v, b.v)}; }
template <int count>
MOE_INLINE Ints shift_left(Ints a) {
  return {vshlq_n_s32(a.v, count)};
}
MOE_INLINE Ints shift_right(Ints a, int count) {  // zeros come in
  return {vreinterpretq_s32_u32(vreinterpretq_u32_s32(a.v) >> count)};
}
template <int count>
MOE_INLINE Ints shift_right(Ints a) {
  return shift_right(a, count);
}
template <int count>
MOE_INLINE Ints shift_right_signed(Ints a) {
  return {vshrq_n_s32(a.v, count)};
}
MOE_INLINE Vec to_float(Ints a) { return {vcvtq_f32_s32(a.v)}; }
MOE_INLINE Ints to_ints(Vec a) { return {vcvtnq_s32_f32(a.v)}; }  // round half even
MOE_INLINE void store_bytes(int8_t *p, Ints a) {                  // lanes saturated to int8
  const int16x4_t words = vqmovn_s32(a.v);
  const uint32_t four = vget_lane_u32(vreinterpret_u32_s8(vqmovn_s16(vcombine_s16(words, words))), 0);
  std::memcpy(p, &four, sizeof four);
}
MOE_INLINE int32_t sum(Ints a) { return vaddvq_s32(a.v); }
// The low nibble of each lane, 0 … 15, as the float −8 … 7.
MOE_INLINE Vec nibble_to_float(Ints a) { return to_float(sub(bit_and(a, broadcast_ints(15)), broadcast_ints(8))); }

// lane i: sum + Σ_{j<4} (unsigned byte w[4i + j] − dot_excess) · signed byte x[4i + j]. `dot_nibble`: the bytes of w are
// below 16, and nothing comes off them.
#if defined(__ARM_FEATURE_MATMUL_INT8)
inline constexpr int dot_excess = 0;
MOE_INLINE Ints dot(Ints sum, Ints w, Ints x) { return {vusdotq_s32(sum.v, bytes(w), signed_bytes(x))}; }
MOE_INLINE Ints dot_nibble(Ints sum, Ints w, Ints x) { return dot(sum, w, x); }

#define MOE_MATRIX_PRODUCTS  // for what is only compiled where there are products of 2 × 8 by 8 × 2 bytes
// lane 2i + j: sum + Σ_{k<8} unsigned byte w[8i + k] · signed byte x[8j + k].
MOE_INLINE Ints matrix_product(Ints sum, Ints w, Ints x) { return {vusmmlaq_s32(sum.v, bytes(w), signed_bytes(x))}; }
// Lanes of a and b by turns: those of the lower halves, those of the upper ones. And apart again.
MOE_INLINE Ints zip_low(Ints a, Ints b) { return {vzip1q_s32(a.v, b.v)}; }
MOE_INLINE Ints zip_high(Ints a, Ints b) { return {vzip2q_s32(a.v, b.v)}; }
MOE_INLINE Ints even_lanes(Ints a, Ints b) { return {vuzp1q_s32(a.v, b.v)}; }
MOE_INLINE Ints odd_lanes(Ints a, Ints b) { return {vuzp2q_s32(a.v, b.v)}; }
#else
inline constexpr int dot_excess = 128;
MOE_INLINE Ints dot_nibble(Ints sum, Ints w, Ints x) { return {vdotq_s32(sum.v, signed_bytes(w), signed_bytes(x))}; }
MOE_INLINE Ints dot(Ints sum, Ints w, Ints x) {  // the top bit turned over: a byte less 128, signed
  return dot_nibble(sum, ints(veorq_u8(bytes(w), vdupq_n_u8(0x80))), x);
}
#endif

// lane i: p[index[i]]; `lookup`: of indices below lookup_floats, all of which must be readable.
inline constexpr int lookup_floats = 8;
MOE_INLINE Vec lookup(const float *p, Ints index) {
  const uint8x16x2_t table = vld1q_u8_x2(reinterpret_cast<const uint8_t *>(p));
  const Ints places = add(mul(index, broadcast_ints(0x04040404)), broadcast_ints(0x03020100));
  return {vreinterpretq_f32_u8(vqtbl2q_u8(table, bytes(places)))};
}
MOE_INLINE Vec gather(const float *p, Ints index) {
  alignas(16) float whole[width] = {p[index.v[0]], p[index.v[1]], p[index.v[2]], p[index.v[3]]};
  return load(whole);
}
// byte i: p[index[i]] of bytes below near_bytes, or far_bytes; all of them must be readable.
inline constexpr int near_bytes = 16, far_bytes = 32;
MOE_INLINE Ints lookup_near(const void *p, Ints index) {
  return ints(vqtbl1q_u8(vld1q_u8(static_cast<const uint8_t *>(p)), bytes(index)));
}
MOE_INLINE Ints lookup_far(const void *p, Ints index) {
  return ints(vqtbl2q_u8(vld1q_u8_x2(static_cast<const uint8_t *>(p)), bytes(index)));
}

}  // namespace moe::cpu::MOE_ISA

#include "simd/math.inl"
