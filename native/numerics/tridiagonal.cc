// Householder reflections to a tridiagonal matrix, and implicit QL steps with Wilkinson's shift from there (Golub and
// Van Loan, "Matrix Computations", sections 8.3 and 5.1.7). Bound: n³·2/3 multiply-adds in matrix-vector products over
// the memory of A, as many in matrix products; and about 3·n³ multiply-adds in rotations.
#include "numerics/tridiagonal.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "moe/checked.h"
#include "moe/error.h"
#include "numerics/kernels.h"
#include "numerics/multiply.h"
#include "numerics/parallel.h"

namespace moe::numerics {
namespace {

constexpr int64_t panel = 32;                // reflections between two updates of the matrix
constexpr int64_t application = 64;          // reflections that are applied as one product
constexpr int64_t threaded_rows = 768;       // of a matrix-vector product; below this starting threads costs more
constexpr int64_t batch = int64_t{1} << 16;  // rotations gathered before they are applied
constexpr int64_t strip = 64;   // columns of z a task rotates: with all rows they fit the second-level cache
constexpr int most_steps = 60;  // QL steps an eigenvalue; two are usual

// to[i] = row i of a · x for i of [first, n), over columns [first, n).
void multiply_vector(const double *a, int64_t n, int64_t first, const double *x, double *to) {
  const auto dot = kernels().dot;
  const auto rows = [&](int64_t start, int64_t count) {
    for (int64_t i = start; i < start + count; ++i)
      to[first + i] = dot(a + (first + i) * n + first, x + first, n - first);
  };
  if (n - first < threaded_rows)
    rows(0, n - first);
  else
    parallel_chunks(n - first, 8, rows);
}

// The reflection that maps row[first …] to (length, 0, …); v gets its vector, the return is its scale.
double reflect(const double *row, int64_t first, int64_t n, double *v, double &length) {
  double tail = 0;
  for (int64_t i = first + 1; i < n; ++i) tail += row[i] * row[i];
  if (tail == 0) {
    length = row[first];
    return 0;
  }
  length = -std::copysign(std::sqrt(row[first] * row[first] + tail), row[first]);
  const double head = row[first] - length;
  v[first] = 1;
  for (int64_t i = first + 1; i < n; ++i) v[i] = row[i] / head;
  return 2 / (1 + tail / (head * head));
}

// A panel's reflections v and what they take off the matrix: A − Σ v·wᵀ + w·vᵀ.
struct Panel {
  std::vector<double> v_w, w_v;  // [2·panel, n]: v above w, and w above v
  int64_t count = 0;
};

void reduce_panel(double *a, int64_t n, int64_t start, Panel &done, Tridiagonal &to) {
  const auto dot = kernels().dot;
  const auto add_scaled = kernels().add_scaled;
  std::vector<double> row(static_cast<size_t>(n)), image(static_cast<size_t>(n));
  const int64_t end = std::min(start + panel, n);
  done.count = end - start;
  const int64_t half = done.count * n;
  std::fill_n(done.v_w.begin(), 2 * half, 0.0);
  double *const vs = done.v_w.data(), *const ws = vs + half;
  for (int64_t k = start; k < end; ++k) {
    const int64_t before = k - start;
    std::copy(a + k * n + k, a + (k + 1) * n, row.begin() + k);
    for (int64_t j = 0; j < before; ++j) {
      add_scaled(-vs[j * n + k], ws + j * n + k, row.data() + k, n - k);
      add_scaled(-ws[j * n + k], vs + j * n + k, row.data() + k, n - k);
    }
    const auto place = static_cast<size_t>(k);
    to.diagonal[place] = row[place];
    if (k + 1 == n) continue;
    const int64_t first = k + 1, rest = n - first;
    double *const v = vs + before * n, *const w = ws + before * n;
    const double scale = to.scales[place] = reflect(row.data(), first, n, v, to.beside[place]);
    if (scale == 0) continue;
    std::copy(v + first, v + n, to.reflectors.begin() + k * n + first);
    multiply_vector(a, n, first, v, image.data());
    for (int64_t j = 0; j < before; ++j) {
      const double along_v = dot(vs + j * n + first, v + first, rest),
                   along_w = dot(ws + j * n + first, v + first, rest);
      add_scaled(-along_w, vs + j * n + first, image.data() + first, rest);
      add_scaled(-along_v, ws + j * n + first, image.data() + first, rest);
    }
    const double along = scale * scale / 2 * dot(image.data() + first, v + first, rest);
    for (int64_t i = first; i < n; ++i) w[i] = scale * image[static_cast<size_t>(i)] - along * v[i];
  }
  std::copy_n(ws, half, done.w_v.begin());
  std::copy_n(vs, half, done.w_v.begin() + half);
}

// Rotations of several QL steps, which commute with nothing but are alike for every column of z.
class Rotations {
 public:
  Rotations(double *z, int64_t n) : z_(z), n_(n) {}
  // Of the pairs first … last − 1, to be given from the last down.
  void begin(int64_t first, int64_t last) {
    steps_.push_back({first, last, static_cast<int64_t>(cosine_.size())});
    cosine_.resize(cosine_.size() + static_cast<size_t>(last - first), 1);
    sine_.resize(cosine_.size(), 0);
  }
  void set(int64_t i, double cosine, double sine) {
    const auto at = static_cast<size_t>(steps_.back().offset + i - steps_.back().first);
    cosine_[at] = cosine;
    sine_[at] = sine;
  }
  void flush(bool all) {
    if (!all && static_cast<int64_t>(cosine_.size()) < batch) return;
    const auto rotate = kernels().rotate_rows;
    parallel_for(ceil_divide(n_, strip), [&](int64_t task) {
      const int64_t column = task * strip;
      for (const Step &step : steps_)
        rotate(cosine_.data() + step.offset, sine_.data() + step.offset, step.first, step.last, z_ + column, n_,
               std::min(strip, n_ - column));
    });
    steps_.clear();
    cosine_.clear();
    sine_.clear();
  }

 private:
  struct Step {
    int64_t first, last, offset;
  };
  double *z_;
  int64_t n_;
  std::vector<Step> steps_;
  std::vector<double> cosine_, sine_;
};

// One implicit QL step on the block first … last.
void step_ql(double *diagonal, double *beside, int64_t first, int64_t last, Rotations &rotations) {
  const double slope = (diagonal[first + 1] - diagonal[first]) / (2 * beside[first]);
  const double shift = diagonal[first] - beside[first] / (slope + std::copysign(std::hypot(slope, 1.0), slope));
  rotations.begin(first, last);
  double sine = 1, cosine = 1, moved = 0, bulge = diagonal[last] - shift;
  for (int64_t i = last - 1; i >= first; --i) {
    const double out = sine * beside[i], kept = cosine * beside[i], length = std::hypot(out, bulge);
    beside[i + 1] = length;
    if (length == 0) {  // the block falls apart here
      diagonal[i + 1] -= moved;
      beside[last] = 0;
      return;
    }
    sine = out / length;
    cosine = bulge / length;
    const double pivot = diagonal[i + 1] - moved;
    const double mixed = (diagonal[i] - pivot) * sine + 2 * cosine * kept;
    moved = sine * mixed;
    diagonal[i + 1] = pivot + moved;
    bulge = cosine * mixed - kept;
    rotations.set(i, cosine, sine);
  }
  diagonal[first] -= moved;
  beside[first] = bulge;
  beside[last] = 0;
}

}  // namespace

Tridiagonal tridiagonalize(double *a, int64_t n) {
  const auto size = static_cast<size_t>(n);
  Tridiagonal made{std::vector<double>(size), std::vector<double>(size), std::vector<double>(size * size),
                   std::vector<double>(size)};
  Panel done;
  done.v_w.resize(static_cast<size_t>(2 * panel) * size);
  done.w_v.resize(done.v_w.size());
  for (int64_t start = 0; start < n; start += panel) {
    reduce_panel(a, n, start, done, made);
    const int64_t next = start + panel, rest = n - next;
    if (rest <= 0) break;
    double *const corner = a + next * n + next;
    add_multiply(Operand::of(done.v_w.data() + next, n).transposed(), Operand::of(done.w_v.data() + next, n), rest,
                 rest, 2 * done.count, -1, corner, n, Part::lower);
    for (int64_t i = 0; i < rest; ++i)
      for (int64_t j = 0; j < i; ++j) corner[j * n + i] = corner[i * n + j];
  }
  return made;
}

void apply_reflectors(const Tridiagonal &from, int64_t n, double *x, int64_t rows) {
  const auto dot = kernels().dot;
  std::vector<double> along(static_cast<size_t>(rows * application)), mixed(along.size());
  for (int64_t start = (n - 1) / application * application; start >= 0; start -= application) {
    const int64_t count = std::min(application, n - start), width = n - start;
    const double *const v = from.reflectors.data() + start * n + start;  // [count, width] of row distance n
    // H_start … H_{start + count − 1} = I − Vᵀ·T·V with T upper triangular; its transpose is applied from the right.
    std::vector<double> t(static_cast<size_t>(count * count));
    const auto entry = [&](int64_t i, int64_t j) -> double & { return t[static_cast<size_t>(i * count + j)]; };
    for (int64_t j = 0; j < count; ++j) {
      const double scale = from.scales[static_cast<size_t>(start + j)];
      entry(j, j) = scale;
      std::vector<double> inner(static_cast<size_t>(j));
      for (int64_t p = 0; p < j; ++p) inner[static_cast<size_t>(p)] = dot(v + p * n, v + j * n, width);
      for (int64_t i = 0; i < j; ++i) {
        double sum = 0;
        for (int64_t p = i; p < j; ++p) sum += entry(i, p) * inner[static_cast<size_t>(p)];
        entry(i, j) = -scale * sum;
      }
    }
    const Operand reflectors = Operand::of(v, n);
    std::fill(along.begin(), along.end(), 0.0);
    add_multiply(Operand::of(x + start, n), reflectors.transposed(), rows, count, width, 1, along.data(), count);
    std::fill(mixed.begin(), mixed.end(), 0.0);
    add_multiply(Operand::of(along.data(), count), Operand::of(t.data(), count).transposed(), rows, count, count, 1,
                 mixed.data(), count);
    add_multiply(Operand::of(mixed.data(), count), reflectors, rows, width, count, -1, x + start, n);
  }
}

void diagonalize(double *diagonal, double *beside, int64_t n, double *z) {
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(diagonal[i]) + std::abs(beside[i]));
  const double negligible = std::numeric_limits<double>::epsilon() * largest;
  Rotations rotations(z, n);
  for (int64_t first = 0; first < n; ++first)
    for (int steps = 0;; ++steps) {
      int64_t last = first;
      while (last + 1 < n && std::abs(beside[last]) > negligible) ++last;
      if (last == first) break;
      if (steps == most_steps)
        throw Error(MOE_INTERNAL, "a", "an eigenvalue within 60 steps", "none at " + std::to_string(first));
      step_ql(diagonal, beside, first, last, rotations);
      rotations.flush(false);
    }
  rotations.flush(true);
}

}  // namespace moe::numerics
