// The linear kernels and the probes compiled for avx512: the vocabulary first, then the algorithms.
#define MOE_ISA avx512
#include "simd/avx512.h"
// The algorithms come after it.
#include "linear/kernels.inl"
#include "probes.inl"
