// All operations but linear, compiled for plain: the vocabulary first, then the algorithms.
#define MOE_ISA plain
#include "simd/plain.h"
// The algorithms come after it.
#include "context.h"
#include "operations/kernels.inl"
