// The vocabulary on AVX-512 (F, BW, DQ, VL, VNNI): 16 floats, 16 int32 or 64 bytes a vector, 32 registers. A unit that is
// compiled for VBMI and BF16 as well has look-ups of 64 bytes and products of bf16 (the set avx512bf16).
#pragma once
#include <immintrin.h>

#include <cstdint>

#define MOE_INLINE [[gnu::always_inline]] inline

namespace moe::cpu::MOE_ISA {

inline constexpr int width = 16;  // floats of a Vec
inline constexpr int registers = 32;

struct Vec {
  __m512 v;
};
struct Ints {  // 16 int32, or 64 bytes for the dot products
  __m512i v;
};
using Mask = __mmask16;

MOE_INLINE Mask first(int64_t n) { return static_cast<Mask>((1u << n) - 1u); }

MOE_INLINE Vec load(const float *p) { return {_mm512_loadu_ps(p)}; }
// n < width; zeros after n
MOE_INLINE Vec load_part(const float *p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
MOE_INLINE void store(float *p, Vec a) { _mm512_storeu_ps(p, a.v); }
// Whole lines past the caches, where p is aligned; others see them after the fence.
MOE_INLINE void store_past_caches(float *p, Vec a) {
  reinterpret_cast<uintptr_t>(p) % 64 == 0 ? _mm512_stream_ps(p, a.v) : store(p, a);
}
MOE_INLINE void fence_past_caches() { _mm_sfence(); }
MOE_INLINE void store_part(float *p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
MOE_INLINE Vec broadcast(float a) { return {_mm512_set1_ps(a)}; }
MOE_INLINE Vec zero() { return {_mm512_setzero_ps()}; }

MOE_INLINE Vec load_f16(const uint16_t *p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))};
}
MOE_INLINE Vec load_bf16(const uint16_t *p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
MOE_INLINE Vec load_f16_part(const uint16_t *p, int64_t n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))};
}
MOE_INLINE Vec load_bf16_part(const uint16_t *p, int64_t n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p)), 16))};
}
MOE_INLINE void store_f16(uint16_t *p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
MOE_INLINE void store_bf16(uint16_t *p, Vec a) {  // round half even; NaN stays NaN
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}

MOE_INLINE Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
MOE_INLINE Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
MOE_INLINE Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
MOE_INLINE Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
MOE_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a·b + c
MOE_INLINE Vec fms(Vec a, Vec b, Vec c) { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }    // a·b − c
MOE_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c − a·b
MOE_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }                  // b where either is NaN
MOE_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }                  // b where either is NaN
MOE_INLINE Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
MOE_INLINE Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
// half even
MOE_INLINE Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
MOE_INLINE Vec scale_power(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }  // a · 2^n, n integral

MOE_INLINE Mask greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
// true where either is NaN
MOE_INLINE Mask not_equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ); }
MOE_INLINE Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m, no.v, yes.v)}; }
MOE_INLINE bool any(Mask m) { return m != 0; }

MOE_INLINE float sum(Vec a) {  // halves folded 16 → 8 → 4 → 2 → 1
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// The sums of four vectors, to p[0 … 3]: pairs interleaved and added, then the four 128-bit lanes folded. Not the
// order of `sum`.
MOE_INLINE void store_sums(float *p, Vec a, Vec b, Vec c, Vec d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  const __m512 lanes = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
}
MOE_INLINE float maximum(Vec a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

MOE_INLINE Ints load_ints(const void *p) { return {_mm512_loadu_si512(p)}; }
MOE_INLINE Ints load_int8s(const void *p) {  // `width` signed bytes, one to a lane
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i *>(p)))};
}
MOE_INLINE Ints load_words(const void *p) {  // `width` unsigned elements of 16 bits, one to a lane
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i *>(p)))};
}
MOE_INLINE Ints broadcast_ints(int32_t a) { return {_mm512_set1_epi32(a)}; }
MOE_INLINE Ints zero_ints() { return {_mm512_setzero_si512()}; }
MOE_INLINE Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
MOE_INLINE Ints sub(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
MOE_INLINE Ints mul(Ints a, Ints b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
MOE_INLINE Ints sub_bytes(Ints a, Ints b) { return {_mm512_sub_epi8(a.v, b.v)}; }
// Bytes: the low halves of a · b; b as byte_factors makes it of 16 factors, each for the four bytes of its lane.
MOE_INLINE Ints byte_factors(Ints a) {
  return {_mm512_or_si512(_mm512_slli_epi32(a.v, 16), _mm512_and_si512(a.v, _mm512_set1_epi32(0xffff)))};
}
MOE_INLINE Ints mul_bytes(Ints a, Ints b) {
  const __m512i even = _mm512_mullo_epi16(a.v, b.v), odd = _mm512_mullo_epi16(_mm512_srli_epi16(a.v, 8), b.v);
  return {_mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaaull, even, _mm512_slli_epi16(odd, 8))};
}
MOE_INLINE Ints bit_and(Ints a, Ints b) { return {_mm512_and_si512(a.v, b.v)}; }
MOE_INLINE Ints bit_or(Ints a, Ints b) { return {_mm512_or_si512(a.v, b.v)}; }
MOE_INLINE Ints bit_xor(Ints a, Ints b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int bits>
MOE_INLINE Ints shift_left(Ints a) {
  return {_mm512_slli_epi32(a.v, bits)};
}
// Zeros come in; nothing is left of a lane whose count is not within 0 … 31.
MOE_INLINE Ints shift_left(Ints a, Ints bits) { return {_mm512_sllv_epi32(a.v, bits.v)}; }
template <int bits>
MOE_INLINE Ints shift_right(Ints a) {  // zeros come in
  return {_mm512_srli_epi32(a.v, bits)};
}
MOE_INLINE Ints shift_right(Ints a, int bits) { return {_mm512_srli_epi32(a.v, static_cast<unsigned>(bits))}; }
template <int bits>
MOE_INLINE Ints shift_right_signed(Ints a) {
  return {_mm512_srai_epi32(a.v, bits)};
}
MOE_INLINE Vec to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
MOE_INLINE Ints to_ints(Vec a) { return {_mm512_cvtps_epi32(a.v)}; }  // round half even
MOE_INLINE void store_bytes(int8_t *p, Ints a) {                      // lanes saturated to int8
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtsepi32_epi8(a.v));
}
MOE_INLINE int32_t sum(Ints a) { return _mm512_reduce_add_epi32(a.v); }
// The low nibble of each lane, 0 … 15, as the float −8 … 7.
MOE_INLINE Vec nibble_to_float(Ints a) {
  const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm512_permutexvar_ps(a.v, table)};
}
// lane i: sum + Σ_{j<4} (unsigned byte w[4i + j] − dot_excess) · signed byte x[4i + j]. `dot_nibble`: the bytes of w are
// below 16, and nothing comes off them.
inline constexpr int dot_excess = 0;
MOE_INLINE Ints dot(Ints sum, Ints w, Ints x) { return {_mm512_dpbusd_epi32(sum.v, w.v, x.v)}; }
MOE_INLINE Ints dot_nibble(Ints sum, Ints w, Ints x) { return dot(sum, w, x); }

#ifdef __AVX512BF16__
#define MOE_BF16_PAIRS  // for what is only compiled where there are products of bf16
// lane i: sum + Σ_{j<2} a[2i + j] · b[2i + j], of bf16; subnormal numbers count as 0.
MOE_INLINE Vec dot_pairs(Vec sum, Ints a, Ints b) {
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
}
// To a register: the compiler would read it again as an operand of each use.
MOE_INLINE Ints load_once(const void *p) {
  Ints a = load_ints(p);
  asm("" : "+v"(a.v));
  return a;
}
// 16-bit elements 2i, 2i + 1: bytes 4i + 2 · pair and the next.
template <int pair>
MOE_INLINE Ints words_of(Ints bytes) {
  const __m512i from = _mm512_set1_epi32(static_cast<int32_t>(0x80018000u + pair * 0x00020002u));  // 0x80: zero
  const __m512i lane = _mm512_set4_epi32(0x000c000c, 0x00080008, 0x00040004, 0);
  return {_mm512_shuffle_epi8(bytes.v, _mm512_add_epi32(from, lane))};
}
// 16-bit element i: words[index[i]].
MOE_INLINE Ints lookup_words(Ints words, Ints index) { return {_mm512_permutexvar_epi16(index.v, words.v)}; }
// Two vectors of 32 16-bit elements to the pairs of elements i of both: those of 0 … 15, then of 16 … 31.
MOE_INLINE void make_pairs(Ints a, Ints b, Ints (&pairs)[2]) {
  const __m512i first_pair = _mm512_set1_epi32(0x00200000);  // element 0 of a, then of b
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i low = _mm512_add_epi32(first_pair, _mm512_mullo_epi32(lanes, _mm512_set1_epi32(0x00010001)));
  pairs[0] = {_mm512_permutex2var_epi16(a.v, low, b.v)};
  pairs[1] = {_mm512_permutex2var_epi16(a.v, _mm512_add_epi32(low, _mm512_set1_epi32(0x00100010)), b.v)};
}
#endif

// What it lives through counts subnormal numbers as 0, as products of pairs in tiles do: calls of functions that are not
// inlined, as the compiler does not know that arithmetic hangs on it.
class NoSubnormals {
 public:
  NoSubnormals() : found_(_mm_getcsr()) { _mm_setcsr(found_ | flush_results | flush_operands); }
  NoSubnormals(const NoSubnormals &) = delete;
  NoSubnormals &operator=(const NoSubnormals &) = delete;
  ~NoSubnormals() { _mm_setcsr(found_); }

 private:
  static constexpr unsigned flush_results = 0x8000, flush_operands = 0x0040;
  unsigned found_;
};

// The bits of floats.
MOE_INLINE Vec as_floats(Ints a) { return {_mm512_castsi512_ps(a.v)}; }
MOE_INLINE Mask odd_lanes(Ints a) { return _mm512_test_epi32_mask(a.v, _mm512_set1_epi32(1)); }
// a·b + c in the lanes of the mask, or in the others; else c.
MOE_INLINE Vec fma_where(Mask m, Vec a, Vec b, Vec c) { return {_mm512_mask3_fmadd_ps(a.v, b.v, c.v, m)}; }
MOE_INLINE Vec fma_unless(Mask m, Vec a, Vec b, Vec c) { return fma_where(_knot_mask16(m), a, b, c); }

// lane i: p[index[i]]; `lookup`: of indices below lookup_floats, all of which must be readable.
inline constexpr int lookup_floats = 16;
MOE_INLINE Vec lookup(const float *p, Ints index) { return {_mm512_permutexvar_ps(index.v, _mm512_loadu_ps(p))}; }
MOE_INLINE Vec gather(const float *p, Ints index) { return {_mm512_i32gather_ps(index.v, p, 4)}; }
// byte i: p[index[i]] of bytes below near_bytes, or far_bytes; all of them must be readable.
#ifdef __AVX512VBMI__
inline constexpr int near_bytes = 64, far_bytes = 64;
MOE_INLINE Ints lookup_near(const void *p, Ints index) {
  return {_mm512_permutexvar_epi8(index.v, _mm512_loadu_si512(p))};
}
MOE_INLINE Ints lookup_far(const void *p, Ints index) { return lookup_near(p, index); }
#else
inline constexpr int near_bytes = 16, far_bytes = 32;
MOE_INLINE Ints lookup_near(const void *p, Ints index) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i *>(p)));
  return {_mm512_shuffle_epi8(table, index.v)};
}
MOE_INLINE Ints lookup_far(const void *p, Ints index) {  // a byte whose top bit is set gives 0
  const Ints low = {_mm512_add_epi8(index.v, _mm512_set1_epi8(0x70))}, high = sub_bytes(index, {_mm512_set1_epi8(16)});
  const Ints a = lookup_near(p, low), b = lookup_near(static_cast<const char *>(p) + 16, high);
  return {_mm512_or_si512(a.v, b.v)};
}
#endif

}  // namespace moe::cpu::MOE_ISA

#include "simd/math.inl"
