// The linear kernels and the probes compiled for neon-i8mm: the vocabulary first, then the algorithms.
#define MOE_ISA neon_i8mm
#include "simd/neon.h"
// The algorithms come after it.
#include "linear/kernels.inl"
#include "probes.inl"
