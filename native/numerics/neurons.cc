// The costs need only P and the Gram matrix G = Dᵀ·D, which changes by a symmetric update of rank two a step:
//   u = P_j / √P_jj   q = G_j / √P_jj − cost_j / 2 · u   P ← P − u·uᵀ   G ← G − q·uᵀ − u·qᵀ
// Updates wait until `block` of them are applied at once; the row that a step reads is brought up to date alone. Bound:
// about 2·width³ multiply-adds for the updates, less as neurons go, and width²·hidden / 2 for G.
#include "numerics/neurons.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "moe/checked.h"
#include "numerics/check.h"
#include "numerics/cholesky.h"
#include "numerics/kernels.h"
#include "numerics/triangular.h"

namespace moe::numerics {
namespace {

constexpr int64_t block = 48;
constexpr int64_t most_side = int64_t{1} << 24;

// P and G of the neurons that are left, as they were when the pending updates began.
class Elimination {
 public:
  Elimination(std::vector<double> p, std::vector<double> g, int64_t n)
      : n_(n),
        p_(std::move(p)),
        g_(std::move(g)),
        p_diagonal_(diagonal(p_)),
        g_diagonal_(diagonal(g_)),
        u_q_(static_cast<size_t>(2 * block * n)),
        q_u_(u_q_.size()),
        removed_(static_cast<size_t>(n)),
        neuron_(static_cast<size_t>(n)) {
    std::iota(neuron_.begin(), neuron_.end(), 0);
  }

  // Removes the cheapest neuron and gives its index and cost.
  int32_t remove(double &cost) {
    int64_t cheapest = -1;
    cost = std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < n_; ++i) {
      if (removed_[static_cast<size_t>(i)]) continue;
      const double own = g_diagonal_[static_cast<size_t>(i)] / p_diagonal_[static_cast<size_t>(i)];
      if (cheapest >= 0 && !(own < cost)) continue;
      cost = own;
      cheapest = i;
    }
    const int32_t neuron = neuron_[static_cast<size_t>(cheapest)];
    add_update(cheapest, cost);
    removed_[static_cast<size_t>(cheapest)] = true;
    if (++pending_ == block) apply();
    return neuron;
  }

 private:
  std::vector<double> diagonal(const std::vector<double> &a) const {
    std::vector<double> made(static_cast<size_t>(n_));
    for (size_t i = 0; i < made.size(); ++i) made[i] = a[i * made.size() + i];
    return made;
  }
  // Rows of the two stacks: u above q, and q above u; each half has room for `block` rows.
  double *u(int64_t k) { return u_q_.data() + k * n_; }
  double *q(int64_t k) { return u_q_.data() + (block + k) * n_; }

  void add_update(int64_t j, double cost) {
    const auto add_scaled = kernels().add_scaled;
    double *const new_u = u(pending_), *const new_q = q(pending_);
    std::copy_n(p_.data() + j * n_, n_, new_u);
    std::copy_n(g_.data() + j * n_, n_, new_q);
    for (int64_t k = 0; k < pending_; ++k) {
      add_scaled(-u(k)[j], u(k), new_u, n_);
      add_scaled(-q(k)[j], u(k), new_q, n_);
      add_scaled(-u(k)[j], q(k), new_q, n_);
    }
    const double factor = 1 / std::sqrt(p_diagonal_[static_cast<size_t>(j)]);
    for (int64_t i = 0; i < n_; ++i) {
      const auto at = static_cast<size_t>(i);
      new_u[i] *= factor;
      new_q[i] = factor * new_q[i] - cost / 2 * new_u[i];
      if (i == j || removed_[at]) continue;
      // Rounding may not take a diagonal below what it can be.
      p_diagonal_[at] = std::max(p_diagonal_[at] - new_u[i] * new_u[i], p_diagonal_[at] * 1e-15);
      g_diagonal_[at] = std::max(g_diagonal_[at] - 2 * new_q[i] * new_u[i], 0.0);
    }
  }

  // Drops the removed rows and columns and applies the pending updates to the rest.
  void apply() {
    std::vector<int64_t> left;
    for (int64_t i = 0; i < n_; ++i)
      if (!removed_[static_cast<size_t>(i)]) left.push_back(i);
    const int64_t count = static_cast<int64_t>(left.size());
    const auto gather = [&](const double *from, double *to) {
      for (int64_t i = 0; i < count; ++i) to[i] = from[left[static_cast<size_t>(i)]];
    };
    // In place: what is written never lies past what is still to be read.
    for (int64_t k = 0; k < 2 * block; ++k) gather(u_q_.data() + k * n_, u_q_.data() + k * count);
    for (int64_t i = 0; i < count; ++i) {
      gather(p_.data() + left[static_cast<size_t>(i)] * n_, p_.data() + i * count);
      gather(g_.data() + left[static_cast<size_t>(i)] * n_, g_.data() + i * count);
    }
    gather(p_diagonal_.data(), p_diagonal_.data());
    gather(g_diagonal_.data(), g_diagonal_.data());
    for (int64_t i = 0; i < count; ++i)
      neuron_[static_cast<size_t>(i)] = neuron_[static_cast<size_t>(left[static_cast<size_t>(i)])];
    n_ = count;
    std::fill_n(removed_.begin(), n_, false);
    std::copy_n(q(0), block * n_, q_u_.data());
    std::copy_n(u(0), block * n_, q_u_.data() + block * n_);
    const Operand stack = Operand::of(u_q_.data(), n_);
    add_multiply(stack.transposed(), stack, n_, n_, block, -1, p_.data(), n_, Part::lower);
    add_multiply(stack.transposed(), Operand::of(q_u_.data(), n_), n_, n_, 2 * block, -1, g_.data(), n_, Part::lower);
    mirror_lower(p_.data(), n_);
    mirror_lower(g_.data(), n_);
    pending_ = 0;
  }

  int64_t n_, pending_ = 0;
  std::vector<double> p_, g_, p_diagonal_, g_diagonal_, u_q_, q_u_;
  std::vector<bool> removed_;
  std::vector<int32_t> neuron_;
};

void check(const Operand &down, int64_t hidden, int64_t width) {
  require_size(hidden, 1, most_side, "hidden");
  require_size(width, 1, most_side, "width");
  const int64_t count = checked_multiply(hidden, width, "down");
  if (down.single)
    require_finite(static_cast<const float *>(down.data), count, "down");
  else
    require_finite(static_cast<const double *>(down.data), count, "down");
}

double element(const Operand &from, int64_t row, int64_t column) {
  const int64_t at = row * from.row_stride + column * from.column_stride;
  return from.single ? static_cast<double>(static_cast<const float *>(from.data)[at])
                     : static_cast<const double *>(from.data)[at];
}

}  // namespace

void neuron_curve(const Operand &down, const double *h, int64_t hidden, int64_t width, double ridge, int32_t *order,
                  double *curve) {
  check(down, hidden, width);
  const auto elements = static_cast<size_t>(checked_multiply(width, width, "width"));
  std::vector<double> p(elements), g(elements);
  symmetric_inverse(h, width, ridge, p.data());
  multiply(down.transposed(), down, width, width, hidden, g.data(), Part::lower);
  mirror_lower(g.data(), width);
  Elimination left(std::move(p), std::move(g), width);
  double largest = 0;
  for (int64_t step = 0; step < width; ++step) {
    double cost = 0;
    order[step] = left.remove(cost);
    curve[step] = largest = std::max(largest, cost);
  }
}

void refit_neurons(const Operand &down, const double *h, int64_t hidden, int64_t width, double ridge,
                   const int32_t *kept, int64_t count, double *to) {
  check(down, hidden, width);
  require_size(count, 1, width, "kept");
  std::vector<int64_t> dropped;
  int64_t next = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (kept[i] < next || kept[i] >= width)
      throw Error(MOE_INVALID_ARGUMENT, "kept", "rising indices below " + std::to_string(width),
                  std::to_string(kept[i]) + " at [" + std::to_string(i) + "]");
    for (; next < kept[i]; ++next) dropped.push_back(next);
    next = int64_t{kept[i]} + 1;
  }
  for (; next < width; ++next) dropped.push_back(next);
  require_finite(h, checked_multiply(width, width, "h"), "h");
  const auto rest = static_cast<int64_t>(dropped.size());
  std::vector<double> part(static_cast<size_t>(hidden * rest)), cross(static_cast<size_t>(rest * count)),
      l(static_cast<size_t>(count * count));
  for (int64_t i = 0; i < hidden; ++i)
    for (int64_t j = 0; j < rest; ++j)
      part[static_cast<size_t>(i * rest + j)] = element(down, i, dropped[static_cast<size_t>(j)]);
  for (int64_t i = 0; i < rest; ++i)
    for (int64_t j = 0; j < count; ++j)
      cross[static_cast<size_t>(i * count + j)] = h[dropped[static_cast<size_t>(i)] * width + kept[j]];
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < count; ++j) l[static_cast<size_t>(i * count + j)] = h[kept[i] * width + kept[j]];
  multiply(Operand::of(part.data(), rest), Operand::of(cross.data(), count), hidden, count, rest, to);
  std::vector<double> factor(l.size());
  cholesky(l.data(), count, ridge, factor.data());
  solve_lower_transposed(factor.data(), count, count, to, hidden, count);
  solve_lower(factor.data(), count, count, to, hidden, count);
  for (int64_t i = 0; i < hidden; ++i)
    for (int64_t j = 0; j < count; ++j) to[i * count + j] += element(down, i, kept[j]);
}

}  // namespace moe::numerics
