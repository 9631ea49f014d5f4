// Sums of products of rows.
#pragma once
#include <cstdint>

namespace moe {

// cost[i, j] += Σ_k a[i, k]·b[j, k], products and sums in f64. a and b [rows, columns], cost [rows, rows], row-major.
void add_product(const float *a, const float *b, int64_t rows, int64_t columns, double *cost);

}  // namespace moe
