// Shared by the kernels of this folder: whole or part vectors by what is left of a row, and tables in 16-bit floats.

namespace moe::cpu::MOE_ISA {

// The next vector of a row that has `left` > 0 elements more; lanes after them are zero.
MOE_INLINE Vec load_some(const float *p, int64_t left) { return left >= width ? load(p) : load_part(p, left); }
MOE_INLINE void store_some(float *p, Vec a, int64_t left) { left >= width ? store(p, a) : store_part(p, a, left); }

// Element `at` of an array in any float dtype, and the `left` that follow.
MOE_INLINE Vec load_any(const void *data, int32_t dtype, int64_t at, int64_t left) {
  if (dtype == MOE_F32) return load_some(static_cast<const float *>(data) + at, left);
  const uint16_t *p = static_cast<const uint16_t *>(data) + at;
  if (dtype == MOE_F16) return left >= width ? load_f16(p) : load_f16_part(p, left);
  return left >= width ? load_bf16(p) : load_bf16_part(p, left);
}
MOE_INLINE void store_any(void *data, int32_t dtype, int64_t at, Vec a, int64_t left) {
  if (dtype == MOE_F32) return store_some(static_cast<float *>(data) + at, a, left);
  uint16_t *p = static_cast<uint16_t *>(data) + at;
  uint16_t part[width];
  uint16_t *to = left >= width ? p : part;
  dtype == MOE_F16 ? store_f16(to, a) : store_bf16(to, a);
  if (to == part) __builtin_memcpy(p, part, static_cast<size_t>(left) * sizeof(uint16_t));
}

inline constexpr float infinity = __builtin_huge_valf();

template <typename T>
MOE_INLINE T smaller(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
MOE_INLINE T larger(T a, T b) {
  return a < b ? b : a;
}

}  // namespace moe::cpu::MOE_ISA
