// All operations but linear, compiled for avx512: the vocabulary first, then the algorithms.
#define MOE_ISA avx512
#include "simd/avx512.h"
// The algorithms come after it.
#include "context.h"
#include "operations/kernels.inl"
