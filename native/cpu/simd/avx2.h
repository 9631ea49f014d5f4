// The vocabulary on AVX2 with FMA and F16C: 8 floats, 8 int32 or 32 bytes a vector, 16 registers. A unit that is compiled
// for AVX-VNNI as well has the dot product of bytes in one instruction (the set avx2vnni).
#pragma once
#include <immintrin.h>

#include <cstdint>

#define MOE_INLINE [[gnu::always_inline]] inline

namespace moe::cpu::MOE_ISA {

inline constexpr int width = 8;  // floats of a Vec
inline constexpr int registers = 16;

struct Vec {
  __m256 v;
};
struct Ints {  // 8 int32, or 32 bytes for the dot products
  __m256i v;
};
struct Mask {  // all ones in a chosen lane
  __m256 v;
};

MOE_INLINE __m256i first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

MOE_INLINE Vec load(const float *p) { return {_mm256_loadu_ps(p)}; }
// n < width; zeros after n
MOE_INLINE Vec load_part(const float *p, int64_t n) { return {_mm256_maskload_ps(p, first(n))}; }
MOE_INLINE void store(float *p, Vec a) { _mm256_storeu_ps(p, a.v); }
MOE_INLINE void store_past_caches(float *p, Vec a) {
  reinterpret_cast<uintptr_t>(p) % 32 == 0 ? _mm256_stream_ps(p, a.v) : store(p, a);
}
MOE_INLINE void fence_past_caches() { _mm_sfence(); }
MOE_INLINE void store_part(float *p, Vec a, int64_t n) { _mm256_maskstore_ps(p, first(n), a.v); }
MOE_INLINE Vec broadcast(float a) { return {_mm256_set1_ps(a)}; }
MOE_INLINE Vec zero() { return {_mm256_setzero_ps()}; }

MOE_INLINE Vec load_f16(const uint16_t *p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)))};
}
MOE_INLINE Vec load_bf16(const uint16_t *p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
MOE_INLINE Vec load_f16_part(const uint16_t *p, int64_t n) {
  alignas(16) uint16_t whole[8] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load_f16(whole);
}
MOE_INLINE Vec load_bf16_part(const uint16_t *p, int64_t n) {
  alignas(16) uint16_t whole[8] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load_bf16(whole);
}
MOE_INLINE void store_f16(uint16_t *p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
MOE_INLINE void store_bf16(uint16_t *p, Vec a) {  // round half even; NaN stays NaN
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i kept = _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
  const __m256i high = _mm256_srli_epi32(kept, 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_castsi256_si128(packed));
}

MOE_INLINE Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
MOE_INLINE Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
MOE_INLINE Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
MOE_INLINE Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
MOE_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }    // a·b + c
MOE_INLINE Vec fms(Vec a, Vec b, Vec c) { return {_mm256_fmsub_ps(a.v, b.v, c.v)}; }    // a·b − c
MOE_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }  // c − a·b
MOE_INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }                  // b where either is NaN
MOE_INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }                  // b where either is NaN
MOE_INLINE Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
MOE_INLINE Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
// half even
MOE_INLINE Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
MOE_INLINE Vec scale_power(Vec a, Vec n) {  // a · 2^n, n integral, |n| ≤ 250: two factors, each a normal number
  const __m256i whole = _mm256_cvtps_epi32(n.v);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i one = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i two = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, _mm256_castsi256_ps(one)), _mm256_castsi256_ps(two))};
}

MOE_INLINE Mask greater(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
MOE_INLINE Mask not_equal(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)}; }  // true where either is NaN
MOE_INLINE Vec select(Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, m.v)}; }
MOE_INLINE bool any(Mask m) { return _mm256_movemask_ps(m.v) != 0; }

MOE_INLINE float sum(Vec a) {  // halves folded 8 → 4 → 2 → 1
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// The sums of four vectors, to p[0 … 3]: pairs interleaved and added, then the two 128-bit lanes folded. Not the order
// of `sum`.
MOE_INLINE void store_sums(float *p, Vec a, Vec b, Vec c, Vec d) {
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c.v, d.v), _mm256_unpackhi_ps(c.v, d.v));
  const __m256 lanes = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1)));
}
MOE_INLINE float maximum(Vec a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

MOE_INLINE Ints load_ints(const void *p) { return {_mm256_loadu_si256(static_cast<const __m256i *>(p))}; }
MOE_INLINE Ints load_int8s(const void *p) {  // `width` signed bytes, one to a lane
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i *>(p)))};
}
MOE_INLINE Ints broadcast_ints(int32_t a) { return {_mm256_set1_epi32(a)}; }
MOE_INLINE Ints zero_ints() { return {_mm256_setzero_si256()}; }
MOE_INLINE Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.v, b.v)}; }
MOE_INLINE Ints sub(Ints a, Ints b) { return {_mm256_sub_epi32(a.v, b.v)}; }
MOE_INLINE Ints mul(Ints a, Ints b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
MOE_INLINE Ints sub_bytes(Ints a, Ints b) { return {_mm256_sub_epi8(a.v, b.v)}; }
MOE_INLINE Ints bit_and(Ints a, Ints b) { return {_mm256_and_si256(a.v, b.v)}; }
MOE_INLINE Ints bit_xor(Ints a, Ints b) { return {_mm256_xor_si256(a.v, b.v)}; }
template <int bits>
MOE_INLINE Ints shift_left(Ints a) {
  return {_mm256_slli_epi32(a.v, bits)};
}
template <int bits>
MOE_INLINE Ints shift_right(Ints a) {  // zeros come in
  return {_mm256_srli_epi32(a.v, bits)};
}
MOE_INLINE Ints shift_right(Ints a, int bits) { return {_mm256_srl_epi32(a.v, _mm_cvtsi32_si128(bits))}; }
template <int bits>
MOE_INLINE Ints shift_right_signed(Ints a) {
  return {_mm256_srai_epi32(a.v, bits)};
}
MOE_INLINE Vec to_float(Ints a) { return {_mm256_cvtepi32_ps(a.v)}; }
MOE_INLINE Ints to_ints(Vec a) { return {_mm256_cvtps_epi32(a.v)}; }  // round half even
MOE_INLINE void store_bytes(int8_t *p, Ints a) {                      // lanes saturated to int8
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i *>(p), _mm_packs_epi16(words, words));
}
MOE_INLINE int32_t sum(Ints a) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x0e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0x01)));
}
// The low nibble of each lane, 0 … 15, as the float −8 … 7.
MOE_INLINE Vec nibble_to_float(Ints a) {
  const __m256i low = _mm256_and_si256(a.v, _mm256_set1_epi32(15));
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(low, _mm256_set1_epi32(8)))};
}
// lane i: sum + Σ_{j<4} (unsigned byte w[4i + j] − dot_excess) · signed byte x[4i + j]. `dot_nibble`: the bytes of w are
// below 16, and nothing comes off them.
inline constexpr int dot_excess = 0;
#ifdef __AVXVNNI__
MOE_INLINE Ints dot(Ints sum, Ints w, Ints x) { return {_mm256_dpbusd_avx_epi32(sum.v, w.v, x.v)}; }
MOE_INLINE Ints dot_nibble(Ints sum, Ints w, Ints x) { return dot(sum, w, x); }
#else
// The same without it. Two products of bytes can pass 2^15, so the bytes are widened to 16 bits first: even places and
// odd places apart.
MOE_INLINE Ints dot(Ints sum, Ints w, Ints x) {
  const __m256i w_even = _mm256_and_si256(w.v, _mm256_set1_epi16(0xff));
  const __m256i w_odd = _mm256_srli_epi16(w.v, 8);
  const __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(x.v, 8), 8);
  const __m256i x_odd = _mm256_srai_epi16(x.v, 8);
  return {
      _mm256_add_epi32(sum.v, _mm256_add_epi32(_mm256_madd_epi16(w_even, x_even), _mm256_madd_epi16(w_odd, x_odd)))};
}
// Where the bytes of w are below 16, two products stay below 2^15.
MOE_INLINE Ints dot_nibble(Ints sum, Ints w, Ints x) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(_mm256_maddubs_epi16(w.v, x.v), _mm256_set1_epi16(1)))};
}
#endif

// lane i: p[index[i]]; `lookup`: of indices below lookup_floats, all of which must be readable.
inline constexpr int lookup_floats = 8;
MOE_INLINE Vec lookup(const float *p, Ints index) { return {_mm256_permutevar8x32_ps(_mm256_loadu_ps(p), index.v)}; }
MOE_INLINE Vec gather(const float *p, Ints index) { return {_mm256_i32gather_ps(p, index.v, 4)}; }
// byte i: p[index[i]] of bytes below near_bytes, or far_bytes; all of them must be readable.
inline constexpr int near_bytes = 16, far_bytes = 32;
MOE_INLINE Ints lookup_near(const void *p, Ints index) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i *>(p)));
  return {_mm256_shuffle_epi8(table, index.v)};
}
MOE_INLINE Ints lookup_far(const void *p, Ints index) {  // a byte whose top bit is set gives 0
  const Ints low = {_mm256_add_epi8(index.v, _mm256_set1_epi8(0x70))}, high = sub_bytes(index, {_mm256_set1_epi8(16)});
  const Ints a = lookup_near(p, low), b = lookup_near(static_cast<const char *>(p) + 16, high);
  return {_mm256_or_si256(a.v, b.v)};
}

}  // namespace moe::cpu::MOE_ISA

#include "simd/math.inl"
