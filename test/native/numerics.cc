#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "core_check.h"
#include "numerics/assignment.h"
#include "numerics/cholesky.h"
#include "numerics/product.h"

namespace {

double total(const std::vector<double> &value, const std::vector<int32_t> &columns) {
  double sum = 0;
  for (size_t i = 0; i < columns.size(); ++i) sum += value[i * columns.size() + static_cast<size_t>(columns[i])];
  return sum;
}

bool is_permutation(std::vector<int32_t> columns) {
  std::sort(columns.begin(), columns.end());
  for (size_t i = 0; i < columns.size(); ++i)
    if (columns[i] != static_cast<int32_t>(i)) return false;
  return true;
}

}  // namespace

TEST_CASE("assignment matches brute force up to n = 7, with ties and negative values") {
  std::mt19937 random(11);
  for (int64_t n = 0; n <= 7; ++n)
    for (int repeat = 0; repeat < 40; ++repeat) {
      std::vector<double> value(static_cast<size_t>(n * n));
      for (double &entry : value)
        entry = repeat % 2 ? static_cast<double>(random() % 5) - 2 : std::ldexp(static_cast<double>(random()), -30) - 2;
      std::vector<int32_t> columns(static_cast<size_t>(n), -1), order(static_cast<size_t>(n));
      moe::numerics::assign_maximum(value.data(), n, columns.data());
      REQUIRE(is_permutation(columns));
      std::iota(order.begin(), order.end(), 0);
      double best = -std::numeric_limits<double>::infinity();
      do best = std::max(best, total(value, order));
      while (std::next_permutation(order.begin(), order.end()));
      CHECK(total(value, columns) == doctest::Approx(best).epsilon(1e-12));
    }
}

TEST_CASE("assignment finds a hidden permutation of 200 and refuses NaN") {
  const int64_t n = 200;
  std::mt19937 random(12);
  std::vector<int32_t> hidden(n), columns(n);
  std::iota(hidden.begin(), hidden.end(), 0);
  std::shuffle(hidden.begin(), hidden.end(), random);
  std::vector<double> value(n * n);
  for (double &entry : value) entry = std::ldexp(static_cast<double>(random()), -32);
  for (size_t i = 0; i < n; ++i) value[i * n + static_cast<size_t>(hidden[i])] += 1;
  moe::numerics::assign_maximum(value.data(), n, columns.data());
  CHECK(columns == hidden);
  value[3 * n + 4] = std::nan("");
  CHECK(error_of([&] { moe::numerics::assign_maximum(value.data(), n, columns.data()); }) ==
        "INVALID_ARGUMENT cost: expected values within ±1e290, got nan at [3, 4]");
}

TEST_CASE("assignment ends for the largest values it takes, and refuses larger ones, whose sums would overflow") {
  std::mt19937 random(15);
  for (const double largest : {1e290, 1e291, 1.7e308}) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      const int64_t n = 2 + repeat % 5;
      std::vector<double> value(static_cast<size_t>(n * n));
      for (double &entry : value) entry = (static_cast<double>(random() % 3) - 1) * largest;
      value[0] = -largest;
      std::vector<int32_t> columns(static_cast<size_t>(n), -1);
      const std::string error = error_of([&] { moe::numerics::assign_maximum(value.data(), n, columns.data()); });
      CHECK(error.starts_with("INVALID_ARGUMENT cost") == (largest > 1e290));
      if (largest <= 1e290) CHECK(is_permutation(columns));
    }
  }
}

TEST_CASE("ridge_solve: the residual of random systems vanishes, across block edges") {
  std::mt19937 random(13);
  std::normal_distribution<double> normal;
  for (const int64_t n : {1, 3, 63, 64, 65, 130, 300})
    for (const int64_t rows : {1, 5, 70}) {
      std::vector<double> z(static_cast<size_t>(n * n)), a(z.size()), b(static_cast<size_t>(rows * n)), x0(b.size()),
          x(b.size());
      for (double &entry : z) entry = normal(random);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j)
          for (int64_t k = 0; k < n; ++k)
            a[static_cast<size_t>(i * n + j)] += z[static_cast<size_t>(i * n + k)] * z[static_cast<size_t>(j * n + k)];
      for (double &entry : b) entry = normal(random);
      for (double &entry : x0) entry = normal(random);
      const double ridge = 0.5;
      moe::numerics::ridge_solve(a.data(), b.data(), x0.data(), n, rows, ridge, x.data());
      double worst = 0;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < n; ++j) {
          const auto at = static_cast<size_t>(i * n + j);
          double left = ridge * x[at] - b[at] - ridge * x0[at];
          for (int64_t k = 0; k < n; ++k) left += x[static_cast<size_t>(i * n + k)] * a[static_cast<size_t>(k * n + j)];
          worst = std::max(worst, std::abs(left));
        }
      CAPTURE(n);
      CAPTURE(rows);
      CHECK(worst < 1e-9 * static_cast<double>(n));
    }
}

TEST_CASE("ridge_solve stays at x0 where A is zero, works in place, and refuses what is not positive definite") {
  const std::vector<double> zero(4), x0{1, 2};
  std::vector<double> b(2);
  moe::numerics::ridge_solve(zero.data(), b.data(), x0.data(), 2, 1, 0.25, b.data());
  CHECK(b == x0);
  const std::vector<double> indefinite{1, 2, 2, 1}, rank_one{1, 1, 1, 1};
  for (const auto &a : {indefinite, rank_one, zero})
    CHECK(error_of([&] {
            moe::numerics::ridge_solve(a.data(), b.data(), x0.data(), 2, 1, 0, b.data());
          }).starts_with("INVALID_ARGUMENT a: expected a positive definite"));
  CHECK(error_of([&] {
          moe::numerics::ridge_solve(zero.data(), b.data(), x0.data(), 2, 1, -1, b.data());
        }).starts_with("INVALID_ARGUMENT ridge"));
}

TEST_CASE("add_product adds every dot product of rows") {
  std::mt19937 random(14);
  std::normal_distribution<float> normal;
  for (const int64_t rows : {1, 4, 7, 33})
    for (const int64_t columns : {1, 5, 255, 256, 600}) {
      std::vector<float> a(static_cast<size_t>(rows * columns)), b(a.size());
      for (float &entry : a) entry = normal(random);
      for (float &entry : b) entry = normal(random);
      std::vector<double> cost(static_cast<size_t>(rows * rows), 2.0);
      moe::numerics::add_product(a.data(), b.data(), rows, columns, cost.data());
      double worst = 0;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < rows; ++j) {
          double sum = 2;
          for (int64_t k = 0; k < columns; ++k)
            sum +=
                static_cast<double>(a[static_cast<size_t>(i * columns + k)]) * b[static_cast<size_t>(j * columns + k)];
          worst = std::max(worst, std::abs(sum - cost[static_cast<size_t>(i * rows + j)]));
        }
      CHECK(worst < 1e-10);
    }
}
