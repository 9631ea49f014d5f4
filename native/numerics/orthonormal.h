// Orthonormal rows.
#pragma once
#include <cstdint>

namespace moe::numerics {

// Rows of y [count, n] become an orthonormal basis of their span, in order; a row that the ones before it span up to
// rounding becomes zero.
void orthonormalize(double *y, int64_t count, int64_t n);

}  // namespace moe::numerics
