// All operations but linear, compiled for avx2: the vocabulary first, then the algorithms.
#define MOE_ISA avx2
#include "simd/avx2.h"
// The algorithms come after it.
#include "context.h"
#include "operations/kernels.inl"
