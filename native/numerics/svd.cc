// Works on the Gram matrix G of the smaller side: its leading eigenvectors come from symmetric_eigen, or by subspace
// iteration with Chebyshev polynomials of G (Zhou and Saad, "A Chebyshev-Davidson algorithm for large symmetric
// eigenproblems", 2007) on a block of rank + 32 random rows (Halko, Martinsson and Tropp, "Finding structure with
// randomness", 2011). Singular values are taken from m itself, so that squaring costs no accuracy in what is kept. Bound:
// rows·columns·min(rows, columns) multiply-adds for G, and block·side² for each multiplication by it.
#include "numerics/svd.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "moe/checked.h"
#include "numerics/check.h"
#include "numerics/eigen.h"
#include "numerics/kernels.h"
#include "numerics/orthonormal.h"
#include "numerics/triangular.h"

namespace moe::numerics {
namespace {

constexpr int64_t oversample = 32;
constexpr int64_t exact_side = 192;  // up to this side the whole eigenproblem is cheaper
constexpr double settled = 1e-7;     // relative rise of the captured share between two rounds
constexpr int most_rounds = 40, most_degree = 8;
constexpr double most_growth = 1e9;   // of a polynomial from the wanted end of the spectrum to the unwanted one
constexpr double negligible = 1e-13;  // singular values below this share of the largest are rounding

// Uniform in [−1, 1): the splitmix64 generator at a counter.
double random_at(uint64_t counter) {
  uint64_t bits = (counter + 1) * 0x9e3779b97f4a7c15u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  bits ^= bits >> 31;
  return static_cast<double>(bits >> 11) * 0x1p-52 - 1;
}

std::vector<double> widened(const Operand &m, int64_t count) {
  if (m.single) {
    const auto *from = static_cast<const float *>(m.data);
    require_finite(from, count, "m");
    return {from, from + count};
  }
  const auto *from = static_cast<const double *>(m.data);
  require_finite(from, count, "m");
  return {from, from + count};
}

// A block of rows that turns towards the leading eigenvectors of g [n, n].
class Subspace {
 public:
  Subspace(const double *g, int64_t n, int64_t count)
      : g_(g),
        n_(n),
        count_(count),
        basis_(size()),
        image_(size()),
        other_(size()),
        values_(static_cast<size_t>(count)) {
    for (size_t i = 0; i < basis_.size(); ++i) basis_[i] = random_at(i);
    multiply_by_g(basis_, image_);
    basis_.swap(image_);
  }

  // The basis becomes the Ritz vectors of its span, by falling value.
  void rotate() {
    orthonormalize(basis_.data(), count_, n_);
    multiply_by_g(basis_, image_);
    std::vector<double> ritz(static_cast<size_t>(count_ * count_)), turn(ritz.size());
    multiply(Operand::of(image_.data(), n_), Operand::of(basis_.data(), n_).transposed(), count_, count_, n_,
             ritz.data(), Part::lower);
    symmetric_eigen(ritz.data(), count_, values_.data(), turn.data(), count_);
    multiply(Operand::of(turn.data(), count_), Operand::of(basis_.data(), n_), count_, n_, count_, other_.data());
    basis_.swap(other_);
  }

  // basis = T_d((2·G − b·I) / b)·basis, where b is the least Ritz value: what lies within [0, b] stays small.
  void filter() {
    const double bound = values_.back(), largest = values_.front();
    if (!(bound > largest * negligible * negligible)) {  // the block holds the whole range already
      multiply_by_g(basis_, image_);
      basis_.swap(image_);
      return;
    }
    const double growth = std::acosh(std::max(2 * largest / bound - 1, 1.0 + 1e-12));
    const int degree = std::clamp(static_cast<int>(std::log(most_growth) / growth), 1, most_degree);
    // previous, current: T_{k − 1} and T_k of the basis.
    std::vector<double> &previous = basis_, &current = image_;
    multiply_by_g(previous, current);
    combine(current, 2 / bound, previous, -1, nullptr);
    for (int k = 1; k < degree; ++k) {
      multiply_by_g(current, other_);
      combine(other_, 4 / bound, current, -2, &previous);
      previous.swap(current);
      current.swap(other_);
    }
    basis_.swap(image_);
  }

  double captured(int64_t rank) const { return std::accumulate(values_.begin(), values_.begin() + rank, 0.0); }
  const double *basis() const { return basis_.data(); }

 private:
  size_t size() const { return static_cast<size_t>(count_ * n_); }
  void multiply_by_g(const std::vector<double> &from, std::vector<double> &to) const {
    multiply(Operand::of(from.data(), n_), Operand::of(g_, n_), count_, n_, n_, to.data());
  }
  // to = factor·to + other_factor·other − last
  static void combine(std::vector<double> &to, double factor, const std::vector<double> &other, double other_factor,
                      const std::vector<double> *last) {
    for (size_t i = 0; i < to.size(); ++i) to[i] = factor * to[i] + other_factor * other[i] - (last ? (*last)[i] : 0.0);
  }

  const double *g_;
  int64_t n_, count_;
  std::vector<double> basis_, image_, other_, values_;
};

// Rows [rank, n]: the leading eigenvectors of g [n, n].
std::vector<double> leading_vectors(const double *g, int64_t n, int64_t rank) {
  std::vector<double> vectors(static_cast<size_t>(rank * n));
  const int64_t count = rank + oversample;
  if (n <= exact_side || 2 * count > n) {
    std::vector<double> values(static_cast<size_t>(n));
    symmetric_eigen(g, n, values.data(), vectors.data(), rank);
    return vectors;
  }
  Subspace space(g, n, count);
  space.rotate();
  double before = space.captured(rank);
  for (int round = 1; round < most_rounds; ++round) {
    space.filter();
    space.rotate();
    const double now = space.captured(rank);
    if (now - before <= settled * now) break;
    before = now;
  }
  std::copy_n(space.basis(), vectors.size(), vectors.begin());
  return vectors;
}

}  // namespace

void truncated_svd(const Operand &m, int64_t rows, int64_t columns, int64_t rank, const double *whiten,
                   const SvdTarget &to) {
  constexpr int64_t most_side = int64_t{1} << 24;
  require_size(rows, 1, most_side, "rows");
  require_size(columns, 1, most_side, "columns");
  require_size(rank, 1, std::min(rows, columns), "rank");
  const std::vector<double> plain = widened(m, checked_multiply(rows, columns, "rows"));
  std::vector<double> whitened;
  if (whiten) {
    require_finite(whiten, checked_multiply(columns, columns, "columns"), "whiten");
    whitened.resize(plain.size());
    multiply_lower(plain.data(), whiten, rows, columns, whitened.data());
  }
  const Operand matrix = Operand::of(whiten ? whitened.data() : plain.data(), columns);
  const bool wide = rows <= columns;
  const int64_t side = std::min(rows, columns);
  std::vector<double> gram(static_cast<size_t>(side * side));
  if (wide)
    multiply(matrix, matrix.transposed(), side, side, columns, gram.data(), Part::lower);
  else
    multiply(matrix.transposed(), matrix, side, side, rows, gram.data(), Part::lower);
  mirror_lower(gram.data(), side);
  double norm = 0;
  for (int64_t i = 0; i < side; ++i) norm += gram[static_cast<size_t>(i * side + i)];

  // Left singular vectors as rows [rank, rows].
  std::vector<double> left = leading_vectors(gram.data(), side, rank);
  if (!wide) {
    std::vector<double> image(static_cast<size_t>(rank * rows));
    multiply(Operand::of(left.data(), side), matrix.transposed(), rank, rows, side, image.data());
    left.swap(image);
    orthonormalize(left.data(), rank, rows);
  }
  std::vector<double> along(static_cast<size_t>(rank * columns)), lengths(static_cast<size_t>(rank));
  multiply(Operand::of(left.data(), rows), matrix, rank, columns, rows, along.data());
  double kept = 0;
  for (int64_t i = 0; i < rank; ++i) {
    const double square = kernels().dot(along.data() + i * columns, along.data() + i * columns, columns);
    kept += square;
    lengths[static_cast<size_t>(i)] = std::sqrt(square);
  }
  if (whiten)
    multiply(Operand::of(left.data(), rows), Operand::of(plain.data(), columns), rank, columns, rows, along.data());
  std::vector<int64_t> order(static_cast<size_t>(rank));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t one, int64_t other) {
    return lengths[static_cast<size_t>(one)] > lengths[static_cast<size_t>(other)];
  });
  const double least = lengths[static_cast<size_t>(order[0])] * negligible;
  for (int64_t i = 0; i < rank; ++i) {
    const int64_t from = order[static_cast<size_t>(i)];
    const double length = lengths[static_cast<size_t>(from)];
    const bool counts = length > least;
    to.s[i] = counts ? length : 0;
    for (int64_t j = 0; j < columns; ++j)
      to.vt[i * columns + j] = counts ? along[static_cast<size_t>(from * columns + j)] / length : 0;
    for (int64_t j = 0; j < rows; ++j) to.u[j * rank + i] = counts ? left[static_cast<size_t>(from * rows + j)] : 0;
  }
  *to.captured = norm > 0 ? std::min(kept / norm, 1.0) : 1;
}

}  // namespace moe::numerics
