// Bound: n³/3 multiply-adds for a factor or an inverse, rows·n² for a solve (half of it by the triangle).
#include "numerics/triangular.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "moe/checked.h"
#include "moe/error.h"
#include "numerics/kernels.h"
#include "numerics/multiply.h"
#include "numerics/parallel.h"

namespace moe::numerics {
namespace {

constexpr int64_t leaf = 48;        // triangles up to this size go element by element
constexpr double rounding = 1e-15;  // a pivot below this share of its diagonal entry is noise
constexpr int64_t solve_rows = 64;  // rows of a thread in a solve come in multiples of this
constexpr int64_t inverse_rows = 128;

// Where recursion splits n > leaf: a multiple of the leaf near the middle.
int64_t half_of(int64_t n) { return std::max((n / 2 + leaf / 2) / leaf, int64_t{1}) * leaf; }

// `first` is the row of a[0, 0] for the message, `entries` its diagonal before elimination.
void factor(double *a, int64_t n, int64_t stride, int64_t first, const double *entries) {
  if (n > leaf) {
    const int64_t top = half_of(n), rest = n - top;
    double *const below = a + top * stride, *const corner = below + top;
    factor(a, top, stride, first, entries);
    solve_lower_transposed(a, top, stride, below, rest, stride);
    const Operand panel = Operand::of(below, stride);
    add_multiply(panel, panel.transposed(), rest, rest, top, -1, corner, stride, Part::lower);
    factor(corner, rest, stride, first + top, entries + top);
    return;
  }
  const auto dot = kernels().dot;
  for (int64_t j = 0; j < n; ++j) {
    double *const row = a + j * stride;
    const double pivot = row[j] - dot(row, row, j);
    if (!(pivot > entries[j] * rounding) || !std::isfinite(pivot))
      throw Error(MOE_INVALID_ARGUMENT, "a", "a positive definite a + ridge·I; a larger ridge makes it so",
                  "pivot " + std::to_string(pivot) + " in row " + std::to_string(first + j));
    row[j] = std::sqrt(pivot);
    for (int64_t i = j + 1; i < n; ++i) {
      double *const lower = a + i * stride;
      lower[j] = (lower[j] - dot(lower, row, j)) / row[j];
    }
  }
}

void solve_transposed(const double *l, int64_t n, int64_t stride, double *x, int64_t rows, int64_t x_stride) {
  if (n > leaf) {
    const int64_t top = half_of(n), rest = n - top;
    const double *const below = l + top * stride;
    solve_transposed(l, top, stride, x, rows, x_stride);
    add_multiply(Operand::of(x, x_stride), Operand::of(below, stride).transposed(), rows, rest, top, -1, x + top,
                 x_stride);
    solve_transposed(below + top, rest, stride, x + top, rows, x_stride);
    return;
  }
  const auto dot = kernels().dot;
  for (int64_t i = 0; i < rows; ++i) {
    double *const row = x + i * x_stride;
    for (int64_t j = 0; j < n; ++j) row[j] = (row[j] - dot(row, l + j * stride, j)) / l[j * stride + j];
  }
}

void solve(const double *l, int64_t n, int64_t stride, double *x, int64_t rows, int64_t x_stride) {
  if (n > leaf) {
    const int64_t top = half_of(n), rest = n - top;
    const double *const below = l + top * stride;
    solve(below + top, rest, stride, x + top, rows, x_stride);
    add_multiply(Operand::of(x + top, x_stride), Operand::of(below, stride), rows, top, rest, -1, x, x_stride);
    solve(l, top, stride, x, rows, x_stride);
    return;
  }
  const auto add_scaled = kernels().add_scaled;
  for (int64_t i = 0; i < rows; ++i) {
    double *const row = x + i * x_stride;
    for (int64_t j = n - 1; j >= 0; --j) {
      row[j] /= l[j * stride + j];
      add_scaled(-row[j], l + j * stride, row, j);
    }
  }
}

}  // namespace

void factor_lower(double *a, int64_t n, int64_t stride) {
  std::vector<double> entries(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) entries[static_cast<size_t>(i)] = a[i * stride + i];
  factor(a, n, stride, 0, entries.data());
}

void solve_lower_transposed(const double *l, int64_t n, int64_t stride, double *x, int64_t rows, int64_t x_stride) {
  parallel_chunks(rows, solve_rows, [&](int64_t first, int64_t count) {
    solve_transposed(l, n, stride, x + first * x_stride, count, x_stride);
  });
}

void solve_lower(const double *l, int64_t n, int64_t stride, double *x, int64_t rows, int64_t x_stride) {
  parallel_chunks(rows, solve_rows,
                  [&](int64_t first, int64_t count) { solve(l, n, stride, x + first * x_stride, count, x_stride); });
}

void invert_lower(const double *l, int64_t n, int64_t stride, double *to) {
  std::fill(to, to + n * n, 0.0);
  const int64_t chunks = ceil_divide(n, inverse_rows);
  // The last rows first: they take longest.
  parallel_for(chunks, [&](int64_t task) {
    const int64_t first = (chunks - 1 - task) * inverse_rows, end = std::min(first + inverse_rows, n);
    for (int64_t i = first; i < end; ++i) to[i * n + i] = 1;
    solve(l, end, stride, to + first * n, end - first, n);
  });
}

void multiply_lower(const double *m, const double *l, int64_t rows, int64_t n, double *to) {
  constexpr int64_t width = 240;  // columns a step; the triangle above them is skipped
  std::fill(to, to + rows * n, 0.0);
  std::vector<double> diagonal;
  for (int64_t column = 0; column < n; column += width) {
    const int64_t count = std::min(width, n - column), end = column + count;
    diagonal.assign(static_cast<size_t>(count * count), 0.0);
    for (int64_t i = 0; i < count; ++i) std::copy_n(l + (column + i) * n + column, i + 1, diagonal.data() + i * count);
    add_multiply(Operand::of(m + column, n), Operand::of(diagonal.data(), count), rows, count, count, 1, to + column,
                 n);
    add_multiply(Operand::of(m + end, n), Operand::of(l + end * n + column, n), rows, count, n - end, 1, to + column,
                 n);
  }
}

}  // namespace moe::numerics
