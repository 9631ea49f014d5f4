// The best approximation of a matrix by one of low rank.
#pragma once
#include <cstdint>

#include "numerics/multiply.h"

namespace moe::numerics {

struct SvdTarget {
  double *u;         // [rows, rank]
  double *s;         // [rank], falling
  double *vt;        // [rank, columns]
  double *captured;  // share of the squared norm that the rank keeps: Σ s² / ‖m‖²; 1 for a zero matrix
};

// u·diag(s)·vt is the matrix of this rank nearest to m [rows, columns]. With `whiten`, L lower [columns, columns] (what
// lies above its diagonal is not read), it is the minimum of ‖(m − u·diag(s)·vt)·L‖: u and s are those of m·L, and
// diag(s)·vt = uᵀ·m, which is what the triangular solve Vᵀ·L⁻¹ amounts to, for singular L too. Columns of u and rows of
// vt beyond the rank of m are zero. Exact up to rounding where the smaller side is short or the rank near it; else
// subspace iteration from a fixed start until the captured share moves by less than 10⁻⁷ of itself.
// INVALID_ARGUMENT where a value is not finite or rank is not 1 … min(rows, columns).
void truncated_svd(const Operand &m, int64_t rows, int64_t columns, int64_t rank, const double *whiten,
                   const SvdTarget &to);

}  // namespace moe::numerics
