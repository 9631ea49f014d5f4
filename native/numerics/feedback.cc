#include "numerics/feedback.h"

#include <numeric>

#include "moe/checked.h"
#include "numerics/check.h"
#include "numerics/triangular.h"

namespace moe::numerics {

Feedback prepare_feedback(const double *h, int64_t n, double damping, bool by_size) {
  if (!(damping >= 0) || !std::isfinite(damping))
    throw Error(MOE_INVALID_ARGUMENT, "damping", "a finite number ≥ 0", std::to_string(damping));
  require_finite(h, checked_multiply(n, n, "columns"), "hessian");
  const auto size = static_cast<size_t>(n);
  Feedback made{std::vector<int64_t>(size), std::vector<bool>(size), std::vector<double>(size * size)};
  std::vector<double> diagonal(size);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    made.dead[at] = h[i * n + i] == 0;
    diagonal[at] = made.dead[at] ? 1 : h[i * n + i];
    sum += diagonal[at];
  }
  std::iota(made.order.begin(), made.order.end(), 0);
  if (by_size)
    std::stable_sort(made.order.begin(), made.order.end(), [&](int64_t left, int64_t right) {
      return diagonal[static_cast<size_t>(left)] > diagonal[static_cast<size_t>(right)];
    });
  // Read backwards H factors into L·Lᵀ; read forwards again L⁻¹ is the upper factor of H⁻¹.
  std::vector<double> backwards(size * size), inverse(size * size);
  const double added = damping * (sum / static_cast<double>(n));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = made.order[static_cast<size_t>(n - 1 - i)];
    for (int64_t j = 0; j <= i; ++j) {
      const int64_t column = made.order[static_cast<size_t>(n - 1 - j)];
      backwards[static_cast<size_t>(i * n + j)] =
          i == j ? diagonal[static_cast<size_t>(row)] + added : h[row * n + column];
    }
  }
  factor_lower(backwards.data(), n, n);
  invert_lower(backwards.data(), n, n, inverse.data());
  std::reverse_copy(inverse.begin(), inverse.end(), made.factor.begin());
  return made;
}

}  // namespace moe::numerics
