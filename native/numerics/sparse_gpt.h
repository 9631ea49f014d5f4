// N:M pruning with error feedback.
#pragma once
#include <cstdint>

namespace moe::numerics {

struct SparseGptOptions {
  int64_t n = 2, m = 4;   // n kept of every m inputs in a row, 1 ≤ n ≤ m ≤ 256
  double damping = 0.01;  // share of the mean of the statistic's diagonal that is added to it
};

// w [rows, columns] f32; hessian [columns, columns] = Σ x·xᵀ of the inputs, any scale. In each run of m columns the n of
// largest w² / U_jj² at that point are kept, the lower index where two are equal; the others become 0 and later columns
// make up for them (SparseGPT, algorithm 1). Columns of inputs that are always 0 become 0, so a run may keep fewer.
// mask [rows, columns]: 1 where kept; to [rows, columns]: the corrected weights. INVALID_ARGUMENT for what is not finite
// or out of range.
void sparse_gpt(const float *w, const double *hessian, int64_t rows, int64_t columns, const SparseGptOptions &options,
                uint8_t *mask, float *to);

}  // namespace moe::numerics
