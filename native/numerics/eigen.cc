#include "numerics/eigen.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "moe/checked.h"
#include "numerics/check.h"
#include "numerics/multiply.h"
#include "numerics/tridiagonal.h"

namespace moe::numerics {

void symmetric_eigen(const double *a, int64_t n, double *values, double *vectors, int64_t count) {
  require_size(n, 1, int64_t{1} << 24, "n");
  require_size(count, 0, n, "count");
  const int64_t elements = checked_multiply(n, n, "n");
  require_finite(a, elements, "a");
  std::vector<double> work(a, a + elements);
  mirror_lower(work.data(), n);
  // Scaled by a power of two, so that squares neither overflow nor vanish.
  double largest = 0;
  for (const double value : work) largest = std::max(largest, std::abs(value));
  int exponent = 0;
  std::frexp(largest, &exponent);
  for (double &value : work) value = std::ldexp(value, -exponent);

  Tridiagonal t = tridiagonalize(work.data(), n);
  std::fill(work.begin(), work.end(), 0.0);
  for (int64_t i = 0; i < n; ++i) work[static_cast<size_t>(i * n + i)] = 1;
  diagonalize(t.diagonal.data(), t.beside.data(), n, work.data());
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t left, int64_t right) {
    return t.diagonal[static_cast<size_t>(left)] > t.diagonal[static_cast<size_t>(right)];
  });
  for (int64_t i = 0; i < n; ++i) {
    const int64_t from = order[static_cast<size_t>(i)];
    values[i] = std::ldexp(t.diagonal[static_cast<size_t>(from)], exponent);
    if (i < count) std::copy_n(work.data() + from * n, n, vectors + i * n);
  }
  apply_reflectors(t, n, vectors, count);
}

}  // namespace moe::numerics
