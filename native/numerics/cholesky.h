// Ridge regression that stays near a start: X·(A + ridge·I) = B + ridge·X0.
#pragma once
#include <cstdint>

namespace moe {

// a [n, n] symmetric positive semi-definite (the lower triangle is read), b, x0 and x [rows, n] row-major; x may be b
// or x0. INVALID_ARGUMENT where ridge is negative or not finite, or A + ridge·I is not positive definite.
void ridge_solve(const double *a, const double *b, const double *x0, int64_t n, int64_t rows, double ridge, double *x);

}  // namespace moe
