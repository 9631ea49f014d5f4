// Solves X·(A + ridge·I) = B + ridge·X0 by Cholesky, A + ridge·I = L·Lᵀ, all f64, row-major. Bound: n³/3 + 2·rows·n²
// multiply-adds; the matrix is cut into blocks of 64 × 64 (32 KiB) so that the inner products run from the nearest
// caches.
#include "numerics/cholesky.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "moe/checked.h"
#include "moe/error.h"
#include "numerics/panel.h"

namespace moe {
namespace {

constexpr int64_t block = 64;
constexpr double rounding = 1e-15;  // a pivot below this share of its diagonal entry is noise

// Packed panels of one call, reused from call to call.
struct Panels {
  std::vector<double> a = std::vector<double>(block * panel_depth), b = std::vector<double>(panel_lanes * panel_depth);
};

// to[i, j] −= Σ_k a[i, k]·b[j, k] for i < rows, j < columns, k < depth; rows ≤ block. All of row distance `stride`.
void subtract_products(const double *a, const double *b, int64_t stride, int64_t depth, double *to, int64_t rows,
                       int64_t columns, Panels &panels) {
  constexpr int64_t lanes = panel_lanes;
  for (int64_t first = 0; first < depth; first += panel_depth) {
    const int64_t count = std::min(panel_depth, depth - first);
    for (int64_t i = 0; i < rows; i += lanes)
      pack_panel(a + i * stride + first, stride, rows - i, count, panels.a.data() + i * panel_depth);
    for (int64_t j = 0; j < columns; j += lanes) {
      pack_panel(b + j * stride + first, stride, columns - j, count, panels.b.data());
      for (int64_t i = 0; i < rows; i += lanes) {
        double sums[lanes][lanes] = {};
        multiply_panels(panels.a.data() + i * panel_depth, panels.b.data(), count, sums);
        for (int64_t u = 0; u < std::min(lanes, rows - i); ++u)
          for (int64_t v = 0; v < std::min(lanes, columns - j); ++v) to[(i + u) * stride + j + v] -= sums[u][v];
      }
    }
  }
}

// Rows of `x` [count, stride] against the lower triangle `l` of a diagonal block: x·Lᵀ = x, in place.
void solve_against_block(const double *l, int64_t stride, int64_t width, double *x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    double *row = x + i * stride;
    for (int64_t j = 0; j < width; ++j) {
      double value = row[j];
      for (int64_t p = 0; p < j; ++p) value -= row[p] * l[j * stride + p];
      row[j] = value / l[j * stride + j];
    }
  }
}

// The factor of one diagonal block in place; `first` is the row for the message. A pivot that rounding has eaten counts
// as zero.
void factor_block(double *l, int64_t stride, int64_t width, int64_t first, const double *diagonal) {
  for (int64_t j = 0; j < width; ++j) {
    double *row = l + j * stride;
    double pivot = row[j];
    for (int64_t p = 0; p < j; ++p) pivot -= row[p] * row[p];
    if (!(pivot > diagonal[j] * rounding) || !std::isfinite(pivot))
      throw Error(MOE_INVALID_ARGUMENT, "a", "a positive definite a + ridge·I; a larger ridge makes it so",
                  "pivot " + std::to_string(pivot) + " in row " + std::to_string(first + j));
    row[j] = std::sqrt(pivot);
    for (int64_t i = j + 1; i < width; ++i) {
      double value = l[i * stride + j];
      for (int64_t p = 0; p < j; ++p) value -= l[i * stride + p] * row[p];
      l[i * stride + j] = value / row[j];
    }
  }
}

// Left-looking by blocks: the lower triangle of l [n, n] becomes its factor.
void factor(double *l, int64_t n, Panels &panels) {
  std::vector<double> entries(static_cast<size_t>(n));  // of the diagonal before elimination
  for (int64_t i = 0; i < n; ++i) entries[static_cast<size_t>(i)] = l[i * n + i];
  for (int64_t first = 0; first < n; first += block) {
    const int64_t width = std::min(block, n - first);
    double *diagonal = l + first * n + first;
    const double *done = l + first * n;  // rows of this block, columns 0 … first
    subtract_products(done, done, n, first, diagonal, width, width, panels);
    factor_block(diagonal, n, width, first, entries.data() + first);
    const int64_t below = first + width;
    for (int64_t row = below; row < n; row += block) {
      const int64_t count = std::min(block, n - row);
      subtract_products(l + row * n, done, n, first, l + row * n + first, count, width, panels);
      solve_against_block(diagonal, n, width, l + row * n + first, count);
    }
  }
}

// The lower triangle mirrored into the upper, so that the backward solve reads columns of L as rows.
void mirror(double *l, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < i; ++j) l[j * n + i] = l[i * n + j];
}

// x·L·Lᵀ = x for rows [count, n]: first z·Lᵀ = x (forward over blocks), then x·L = z (backward).
void solve_rows(const double *l, int64_t n, double *x, int64_t count, Panels &panels) {
  for (int64_t first = 0; first < n; first += block) {
    const int64_t width = std::min(block, n - first);
    subtract_products(x, l + first * n, n, first, x + first, count, width, panels);
    solve_against_block(l + first * n + first, n, width, x + first, count);
  }
  for (int64_t first = (n - 1) / block * block; first >= 0; first -= block) {
    const int64_t width = std::min(block, n - first), end = first + width;
    subtract_products(x + end, l + first * n + end, n, n - end, x + first, count, width, panels);
    for (int64_t i = 0; i < count; ++i) {
      double *row = x + i * n;
      for (int64_t j = end - 1; j >= first; --j) {
        double value = row[j];
        for (int64_t p = j + 1; p < end; ++p) value -= row[p] * l[j * n + p];
        row[j] = value / l[j * n + j];
      }
    }
  }
}

}  // namespace

void ridge_solve(const double *a, const double *b, const double *x0, int64_t n, int64_t rows, double ridge, double *x) {
  if (n < 1 || rows < 0)
    throw Error(MOE_INVALID_ARGUMENT, "n", "n ≥ 1 and rows ≥ 0", std::to_string(n) + " and " + std::to_string(rows));
  if (!(ridge >= 0) || !std::isfinite(ridge))
    throw Error(MOE_INVALID_ARGUMENT, "ridge", "a finite number ≥ 0", std::to_string(ridge));
  const int64_t elements = checked_multiply(n, n, "n");
  std::vector<double> l(a, a + elements);
  for (int64_t i = 0; i < n; ++i) l[static_cast<size_t>(i * n + i)] += ridge;
  Panels panels;
  factor(l.data(), n, panels);
  mirror(l.data(), n);
  const int64_t count = checked_multiply(rows, n, "rows");
  for (int64_t i = 0; i < count; ++i) x[i] = b[i] + ridge * x0[i];
  for (int64_t row = 0; row < rows; row += block)
    solve_rows(l.data(), n, x + row * n, std::min(block, rows - row), panels);
}

}  // namespace moe
