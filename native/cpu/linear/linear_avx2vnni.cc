// The linear kernels and the probes compiled for avx2 with AVX-VNNI: the vocabulary first, then the algorithms.
#define MOE_ISA avx2vnni
#include "simd/avx2.h"
// The algorithms come after it.
#include "linear/kernels.inl"
#include "probes.inl"
