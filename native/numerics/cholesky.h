// Symmetric positive definite systems, f64 row-major. `a` [n, n] is symmetric positive semi-definite; its lower triangle
// is read. INVALID_ARGUMENT where a value is not finite, ridge is negative, or A + ridge·I is not positive definite.
#pragma once
#include <cstdint>

namespace moe::numerics {

// to [n, n] = L of A + ridge·I = L·Lᵀ, zeros above the diagonal.
void cholesky(const double *a, int64_t n, double ridge, double *to);

// to [n, n] = (A + ridge·I)⁻¹.
void symmetric_inverse(const double *a, int64_t n, double ridge, double *to);

// Ridge regression that stays near a start: X·(A + ridge·I) = B + ridge·X0. b, x0 and x [rows, n]; x may be b or x0.
void ridge_solve(const double *a, const double *b, const double *x0, int64_t n, int64_t rows, double ridge, double *x);

// to [rows, n] = m·L for m [rows, n] and L lower; what lies above L's diagonal is not read.
void triangular_product(const double *m, const double *l, int64_t rows, int64_t n, double *to);

// z·L = x, or z·Lᵀ = x where `transposed`; x [rows, n] is replaced by z. INVALID_ARGUMENT where L's diagonal has a zero.
void triangular_solve(const double *l, bool transposed, int64_t n, int64_t rows, double *x);

}  // namespace moe::numerics
