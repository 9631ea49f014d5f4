// Operations on lower triangles, f64 row-major: the parts that the solvers are made of. Each recurses by halves, so that
// nearly all work is in matrix products; only the lower triangle of `l` is read.
#pragma once
#include <cstdint>

namespace moe::numerics {

// The lower triangle of a [n, n] (row distance `stride`) becomes L of A = L·Lᵀ; what lies above the
// diagonal is not defined afterwards. A pivot that rounding has eaten counts as zero: INVALID_ARGUMENT "a" with its row.
void factor_lower(double *a, int64_t n, int64_t stride);

// Rows of x [rows, n] (row distance x_stride), in place and threaded: x becomes z of z·Lᵀ = x, or of z·L = x.
void solve_lower_transposed(const double *l, int64_t n, int64_t stride, double *x, int64_t rows, int64_t x_stride);
void solve_lower(const double *l, int64_t n, int64_t stride, double *x, int64_t rows, int64_t x_stride);

// to [n, n] = L⁻¹, zeros above its diagonal.
void invert_lower(const double *l, int64_t n, int64_t stride, double *to);

// to = m·L for m [rows, n], to [rows, n].
void multiply_lower(const double *m, const double *l, int64_t rows, int64_t n, double *to);

}  // namespace moe::numerics
