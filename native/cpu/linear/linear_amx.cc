// The linear kernels and the probes compiled for avx512bf16 with AMX's tiles: the vocabulary first, then the algorithms.
#define MOE_ISA amx
#include "simd/amx.h"
#include "simd/avx512.h"
// The algorithms come after it.
#include "linear/kernels.inl"
#include "probes.h"
namespace moe::cpu::amx {
extern const Probes probes;
}
#include "probes.inl"
