#include "numerics/product.h"

#include <algorithm>
#include <vector>

#include "moe/checked.h"
#include "numerics/check.h"

namespace moe::numerics {
namespace {

void require_finite(const Operand &from, int64_t count, const char *argument) {
  if (from.single)
    numerics::require_finite(static_cast<const float *>(from.data), count, argument);
  else
    numerics::require_finite(static_cast<const double *>(from.data), count, argument);
}

}  // namespace

void product(const Operand &a, const Operand &b, bool transposed, int64_t rows, int64_t columns, int64_t depth,
             double *to) {
  require_finite(a, checked_multiply(rows, depth, "a"), "a");
  require_finite(b, checked_multiply(depth, columns, "b"), "b");
  multiply(a, transposed ? b.transposed() : b, rows, columns, depth, to);
}

void product(const Operand &a, const Operand &b, bool transposed, int64_t rows, int64_t columns, int64_t depth,
             float *to) {
  std::vector<double> sums(static_cast<size_t>(checked_multiply(rows, columns, "to")));
  product(a, b, transposed, rows, columns, depth, sums.data());
  std::transform(sums.begin(), sums.end(), to, [](double sum) { return static_cast<float>(sum); });
}

void add_product(const float *a, const float *b, int64_t rows, int64_t columns, double *cost) {
  add_multiply(Operand::of(a, columns), Operand::of(b, columns).transposed(), rows, rows, columns, 1, cost, rows);
}

}  // namespace moe::numerics
