// The linear kernels and the probes compiled for neon: the vocabulary first, then the algorithms.
#define MOE_ISA neon
#include "simd/neon.h"
// The algorithms come after it.
#include "linear/kernels.inl"
#include "probes.inl"
