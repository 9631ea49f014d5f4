#include "numerics/cholesky.h"

#include <algorithm>
#include <string>
#include <vector>

#include "moe/checked.h"
#include "numerics/check.h"
#include "numerics/multiply.h"
#include "numerics/triangular.h"

namespace moe::numerics {
namespace {

constexpr int64_t most_rows = int64_t{1} << 24;

void require_triangle(const double *l, int64_t n) {
  require_finite(l, checked_multiply(n, n, "n"), "l");
  for (int64_t i = 0; i < n; ++i)
    if (l[i * n + i] == 0)
      throw Error(MOE_INVALID_ARGUMENT, "l", "no zero on the diagonal", "0 in row " + std::to_string(i));
}

}  // namespace

void cholesky(const double *a, int64_t n, double ridge, double *to) {
  require_size(n, 1, most_rows, "n");
  require_ridge(ridge);
  require_finite(a, checked_multiply(n, n, "n"), "a");
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(a + i * n, i + 1, to + i * n);
    to[i * n + i] += ridge;
  }
  factor_lower(to, n, n);
  for (int64_t i = 0; i < n; ++i) std::fill(to + i * n + i + 1, to + (i + 1) * n, 0.0);
}

void symmetric_inverse(const double *a, int64_t n, double ridge, double *to) {
  std::vector<double> inverse(static_cast<size_t>(checked_multiply(n, n, "n")));
  cholesky(a, n, ridge, to);
  invert_lower(to, n, n, inverse.data());
  const Operand l = Operand::of(inverse.data(), n);
  multiply(l.transposed(), l, n, n, n, to, Part::lower);
  mirror_lower(to, n);
}

void ridge_solve(const double *a, const double *b, const double *x0, int64_t n, int64_t rows, double ridge, double *x) {
  require_size(rows, 0, most_rows, "rows");
  const int64_t count = checked_multiply(rows, n, "rows");
  require_finite(b, count, "b");
  require_finite(x0, count, "x0");
  std::vector<double> l(static_cast<size_t>(checked_multiply(n, n, "n")));
  cholesky(a, n, ridge, l.data());
  for (int64_t i = 0; i < count; ++i) x[i] = b[i] + ridge * x0[i];
  solve_lower_transposed(l.data(), n, n, x, rows, n);
  solve_lower(l.data(), n, n, x, rows, n);
}

void triangular_product(const double *m, const double *l, int64_t rows, int64_t n, double *to) {
  require_size(n, 1, most_rows, "n");
  require_finite(m, checked_multiply(rows, n, "rows"), "m");
  require_finite(l, checked_multiply(n, n, "n"), "l");
  multiply_lower(m, l, rows, n, to);
}

void triangular_solve(const double *l, bool transposed, int64_t n, int64_t rows, double *x) {
  require_size(n, 1, most_rows, "n");
  require_triangle(l, n);
  require_finite(x, checked_multiply(rows, n, "rows"), "x");
  if (transposed)
    solve_lower_transposed(l, n, n, x, rows, n);
  else
    solve_lower(l, n, n, x, rows, n);
}

}  // namespace moe::numerics
