// The linear kernels and the probes compiled for avx512 with VBMI and BF16: the vocabulary first, then the algorithms.
#define MOE_ISA avx512bf16
#include "simd/avx512.h"
// The algorithms come after it.
#include "linear/kernels.inl"
#include "probes.h"
namespace moe::cpu::avx512bf16 {
extern const Probes probes;
// Only what multiplies bf16 needs BF16, so they run with VBMI alone.
const linear::Kernels exact_kernels = kernels_with(false);
}  // namespace moe::cpu::avx512bf16
#include "probes.inl"
