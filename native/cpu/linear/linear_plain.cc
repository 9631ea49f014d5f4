// The linear kernels and the probes compiled for plain: the vocabulary first, then the algorithms.
#define MOE_ISA plain
#include "simd/plain.h"
// The algorithms come after it.
#include "linear/kernels.inl"
#include "probes.inl"
