#include "compare.h"

#include <algorithm>
#include <cmath>

namespace moe::gpu_check {
namespace {

struct Allowed {
  double similarity, places;
};
Allowed allowed_by(Bound bound) {
  switch (bound) {
    case Bound::exact:
      return {0, 0};
    case Bound::element:
      return {1e-12, 4};
    case Bound::transcendental:
      return {1e-12, 8};
    case Bound::sum:
      return {1e-12, 1.5};
    default:
      return {1e-11, 12};
  }
}

// The unit of the last place; 0 for integers.
double unit_of(int32_t dtype) {
  switch (dtype) {
    case MOE_F32:
    case MOE_F64:
      return 0x1p-24;
    case MOE_F16:
      return 0x1p-11;
    case MOE_BF16:
      return 0x1p-8;
    default:
      return 0;
  }
}

}  // namespace

std::string compare(const test::Array &actual, const test::Array &expected, Bound bound, int64_t k,
                    const std::function<bool(int64_t)> &counts) {
  if (actual.size() != expected.size())
    return std::to_string(actual.size()) + " elements for " + std::to_string(expected.size());
  const int32_t dtype = expected.dtype;
  const double unit = unit_of(dtype);
  const bool exact = unit == 0 || bound == Bound::exact;
  double product = 0, squares = 0, worst = 0, largest = 0;
  int64_t worst_at = 0;
  const auto at = [&](int64_t i) {
    return "[" + std::to_string(i) + "]: " + std::to_string(actual.at(i)) + " for " + std::to_string(expected.at(i));
  };
  for (int64_t i = 0; i < expected.size(); ++i) {
    if (!counts(i)) continue;
    const double x = actual.at(i), y = expected.at(i);
    const bool same = x == y && (!exact || std::signbit(x) == std::signbit(y));
    if (same || (std::isnan(x) && std::isnan(y))) {
      if (std::isfinite(x)) product += x * y, squares += x * x + y * y, largest = std::max(largest, std::abs(y));
      continue;
    }
    if (exact || !std::isfinite(x) || !std::isfinite(y)) return at(i);
    product += x * y;
    squares += x * x + y * y;
    largest = std::max(largest, std::abs(y));
    if (std::abs(x - y) > worst) worst = std::abs(x - y), worst_at = i;
  }
  if (worst == 0) return "";
  // A result kept in 16 bits may fall on the other side of a rounding, whatever the class.
  const bool half = dtype == MOE_F16 || dtype == MOE_BF16;
  const Allowed allowed = half ? Allowed{dtype == MOE_F16 ? 0x1p-22 : 0x1p-16, 2.1} : allowed_by(bound);
  const double similarity = squares > 0 ? 1 - 2 * product / squares : 0;
  const double length = half ? 1 : static_cast<double>(std::max<int64_t>(1, k));
  const double places = worst / (unit * std::sqrt(length) * std::max(largest, 1e-30));
  if (places > allowed.places)
    return at(worst_at) + ": " + std::to_string(places) + " places over √K, " + std::to_string(allowed.places) +
           " allowed";
  if (similarity > allowed.similarity) return "similarity error " + std::to_string(similarity);
  return "";
}

}  // namespace moe::gpu_check
