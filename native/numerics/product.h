// Products of matrices as JavaScript asks for them.
#pragma once
#include <cstdint>

#include "numerics/multiply.h"

namespace moe::numerics {

// to = a·b, or a·bᵀ where `transposed`: a [rows, depth], b [depth, columns] or [columns, depth], each f32 or f64
// row-major; `to` [rows, columns] f64, or f32 rounded once from the f64 sum. INVALID_ARGUMENT for a value that is not
// finite.
void product(const Operand &a, const Operand &b, bool transposed, int64_t rows, int64_t columns, int64_t depth,
             double *to);
void product(const Operand &a, const Operand &b, bool transposed, int64_t rows, int64_t columns, int64_t depth,
             float *to);

// cost[i, j] += Σ_k a[i, k]·b[j, k], products and sums in f64. a and b [rows, columns], cost [rows, rows], row-major.
void add_product(const float *a, const float *b, int64_t rows, int64_t columns, double *cost);

}  // namespace moe::numerics
