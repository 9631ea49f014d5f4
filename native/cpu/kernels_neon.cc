// All operations but linear, compiled for neon: the vocabulary first, then the algorithms.
#define MOE_ISA neon
#include "simd/neon.h"
// The algorithms come after it.
#include "context.h"
#include "operations/kernels.inl"
