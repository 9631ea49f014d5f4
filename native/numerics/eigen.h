// Eigenvalues and eigenvectors of a symmetric matrix.
#pragma once
#include <cstdint>

namespace moe::numerics {

// a [n, n] f64, its lower triangle read; values [n] falling; vectors [count, n], row i belongs to values[i]; count ≤ n.
// INVALID_ARGUMENT where a value is not finite.
void symmetric_eigen(const double *a, int64_t n, double *values, double *vectors, int64_t count);

}  // namespace moe::numerics
