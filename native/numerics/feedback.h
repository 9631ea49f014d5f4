// Rounding a matrix column by column, each column's error carried to the columns after it: what GPTQ and SparseGPT share
// (Frantar et al., "GPTQ", 2022, algorithm 1; Frantar and Alistarh, "SparseGPT", 2023, algorithm 1).
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "numerics/kernels.h"
#include "numerics/multiply.h"
#include "numerics/parallel.h"

namespace moe::numerics {

// The damped statistic of a layer's inputs, as error feedback uses it.
struct Feedback {
  std::vector<int64_t> order;  // [n], the column visited at each step
  std::vector<bool> dead;      // [n], columns whose input is always 0, by their own index
  std::vector<double> factor;  // U [n, n] upper of H⁻¹ = Uᵀ·U in the order of visits
};

// h [n, n]. A dead column (h_jj = 0) counts as h_jj = 1; then damping·mean(diag h) is added to the diagonal. With
// `by_size` columns are visited by falling h_jj, the lower index first where two are equal. INVALID_ARGUMENT where what
// results is not positive definite.
Feedback prepare_feedback(const double *h, int64_t n, double damping, bool by_size);

// A row as it is rounded.
struct Visit {
  int64_t row, column;    // column: in the order of visits
  const double *began;    // the row as it was when the block of this column began, from its first column
  const double *current;  // this column's value now, and those after it to the end of the block
  int64_t left;           // how many those are
};

// w [rows, n], columns in the order of visits; each element becomes choose(visit). Corrections within a block of columns
// reach the block's own columns at once and later ones at its end. Rows do not depend on each other; threaded.
template <typename Choose>
void round_with_feedback(double *w, int64_t rows, int64_t n, int64_t block, const std::vector<double> &factor,
                         const Choose &choose) {
  const double *const u = factor.data();
  parallel_chunks(rows, 16, [&](int64_t first, int64_t count) {
    const auto add_scaled = kernels().add_scaled;
    std::vector<double> errors(static_cast<size_t>(count * block)), current(static_cast<size_t>(block)),
        chosen(static_cast<size_t>(block));
    double *const part = w + first * n;
    for (int64_t start = 0; start < n; start += block) {
      const int64_t width = std::min(block, n - start), end = start + width;
      for (int64_t i = 0; i < count; ++i) {
        double *const row = part + i * n, *const error = errors.data() + i * width;
        std::copy_n(row + start, width, current.data());
        for (int64_t j = 0; j < width; ++j) {
          double *const value = current.data() + j;
          const double *const along = u + (start + j) * n + start + j;
          const double target = choose(Visit{first + i, start + j, row, value, width - j});
          error[j] = (*value - target) / *along;
          chosen[static_cast<size_t>(j)] = target;
          add_scaled(-error[j], along + 1, value + 1, width - j - 1);
        }
        std::copy_n(chosen.data(), width, row + start);
      }
      add_multiply(Operand::of(errors.data(), width), Operand::of(u + start * n + end, n), count, n - end, width, -1,
                   part + end, n);
    }
  });
}

}  // namespace moe::numerics
