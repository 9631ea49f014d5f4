// All operations but linear, compiled for neon-i8mm: the vocabulary first, then the algorithms.
#define MOE_ISA neon_i8mm
#include "simd/neon.h"
// The algorithms come after it.
#include "context.h"
#include "operations/kernels.inl"
