// Gram-Schmidt by blocks of rows, each pass done twice: against the blocks before by products, within a block row by row.
#include "numerics/orthonormal.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "numerics/kernels.h"
#include "numerics/multiply.h"

namespace moe::numerics {
namespace {

constexpr int64_t block = 24;
constexpr double dependent = 1e-13;  // share of a row's length that rounding leaves of a row in the span of others

void scale_to_unit(double *row, int64_t n, double least) {
  const double length = std::sqrt(kernels().dot(row, row, n));
  const double factor = length > least ? 1 / length : 0;
  for (int64_t i = 0; i < n; ++i) row[i] *= factor;
}

}  // namespace

void orthonormalize(double *y, int64_t count, int64_t n) {
  const Kernels &kernel = kernels();
  std::vector<double> along(static_cast<size_t>(block * count));
  // Lengths near 1 keep squares in range.
  for (int64_t i = 0; i < count; ++i) scale_to_unit(y + i * n, n, 0);
  for (int64_t first = 0; first < count; first += block) {
    const int64_t rows = std::min(block, count - first);
    double *const part = y + first * n;
    for (int pass = 0; pass < 2; ++pass) {
      if (first > 0) {
        multiply(Operand::of(part, n), Operand::of(y, n).transposed(), rows, first, n, along.data());
        add_multiply(Operand::of(along.data(), first), Operand::of(y, n), rows, n, first, -1, part, n);
      }
      for (int64_t i = 0; i < rows; ++i) {
        double *const row = part + i * n;
        for (int64_t j = 0; j < i; ++j) kernel.add_scaled(-kernel.dot(row, part + j * n, n), part + j * n, row, n);
        scale_to_unit(row, n, dependent);
      }
    }
  }
}

}  // namespace moe::numerics
