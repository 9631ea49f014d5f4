// A run that gives up column a for a newcomer x keeps in each row the n − 1 largest of its rest and max(t, x), where t is
// the n-th largest of its rest. So the gain of every swap follows from M[a, b] = Σ over rows max(t_a, |w_b|), of which a
// swap changes only the rows and columns of its two runs. Layout: magnitudes and thresholds transposed, a column each.
// Bound: columns²·rows comparisons to begin with, 4·m·columns·rows a swap.
#include "numerics/permutation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "moe/checked.h"
#include "numerics/check.h"
#include "numerics/kernels.h"
#include "numerics/parallel.h"

namespace moe::numerics {
namespace {

constexpr int64_t most_m = 64;
constexpr double least_gain = 1e-12;  // share of all magnitudes below which a gain is rounding

struct Swap {
  double gain;
  int64_t one, other;  // places
};

class Search {
 public:
  std::vector<int32_t> order;  // [columns], the column at each place

  Search(const float *w, int64_t rows, int64_t columns, int64_t n, int64_t m)
      : order(static_cast<size_t>(columns)),
        rows_(rows),
        columns_(columns),
        n_(n),
        m_(m),
        magnitude_(static_cast<size_t>(rows * columns)),
        threshold_(magnitude_.size()),
        rest_(static_cast<size_t>(columns)),
        kept_(static_cast<size_t>(columns / m)),
        maxima_(static_cast<size_t>(columns * columns)) {
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t i = 0; i < rows; ++i)
        magnitude_[static_cast<size_t>(j * rows + i)] = std::abs(static_cast<double>(w[i * columns + j]));
    least_ = least_gain * std::accumulate(magnitude_.begin(), magnitude_.end(), 0.0);
    std::iota(order.begin(), order.end(), 0);
    refresh_all();
  }

  double kept() const { return std::accumulate(kept_.begin(), kept_.end(), 0.0); }

  // The best swaps of each round, no run twice in it, until none gains.
  void climb() {
    for (;;) {
      std::vector<Swap> swaps;
      for (int64_t p = 0; p < columns_; ++p)
        for (int64_t q = (p / m_ + 1) * m_; q < columns_; ++q)
          if (const double gain = gain_of(p, q); gain > least_) swaps.push_back({gain, p, q});
      if (swaps.empty()) return;
      std::stable_sort(swaps.begin(), swaps.end(),
                       [](const Swap &one, const Swap &other) { return one.gain > other.gain; });
      std::vector<bool> taken(kept_.size());
      std::vector<int64_t> changed;
      for (const Swap &swap : swaps) {
        const int64_t one = swap.one / m_, other = swap.other / m_;
        if (taken[static_cast<size_t>(one)] || taken[static_cast<size_t>(other)]) continue;
        taken[static_cast<size_t>(one)] = taken[static_cast<size_t>(other)] = true;
        std::swap(order[static_cast<size_t>(swap.one)], order[static_cast<size_t>(swap.other)]);
        changed.insert(changed.end(), {one, other});
      }
      refresh(changed);
    }
  }

  void refresh_all() {
    std::vector<int64_t> all(kept_.size());
    std::iota(all.begin(), all.end(), 0);
    refresh(all);
  }

 private:
  double gain_of(int64_t p, int64_t q) const {
    return maxima_[static_cast<size_t>(p * columns_ + q)] + maxima_[static_cast<size_t>(q * columns_ + p)] +
           rest_[static_cast<size_t>(p)] + rest_[static_cast<size_t>(q)] - kept_[static_cast<size_t>(p / m_)] -
           kept_[static_cast<size_t>(q / m_)];
  }

  const double *column(int64_t place) const {
    return magnitude_.data() + int64_t{order[static_cast<size_t>(place)]} * rows_;
  }

  // Thresholds, rests and kept sum of one run.
  void measure(int64_t run) {
    double sum = 0, rest[most_m] = {};
    for (int64_t i = 0; i < rows_; ++i) {
      int64_t rank[most_m];
      double value[most_m], top = 0;
      for (int64_t a = 0; a < m_; ++a) {
        value[a] = column(run * m_ + a)[i];
        int64_t place = a;
        for (; place > 0 && value[rank[place - 1]] < value[a]; --place) rank[place] = rank[place - 1];
        rank[place] = a;
      }
      for (int64_t k = 0; k < n_; ++k) top += value[rank[k]];
      sum += top;
      for (int64_t k = 0; k < m_; ++k) {
        const int64_t a = rank[k];
        rest[a] += top - value[k < n_ ? a : rank[n_ - 1]];
        threshold_[static_cast<size_t>((run * m_ + a) * rows_ + i)] = value[rank[k < n_ ? n_ : n_ - 1]];
      }
    }
    kept_[static_cast<size_t>(run)] = sum;
    std::copy_n(rest, m_, rest_.begin() + run * m_);
  }

  void refresh(const std::vector<int64_t> &runs) {
    parallel_for(static_cast<int64_t>(runs.size()), [&](int64_t index) { measure(runs[static_cast<size_t>(index)]); });
    std::vector<bool> changed(kept_.size());
    for (const int64_t run : runs) changed[static_cast<size_t>(run)] = true;
    const auto sum_maxima = kernels().sum_maxima;
    parallel_for(columns_, [&](int64_t p) {
      const bool whole = changed[static_cast<size_t>(p / m_)];
      for (int64_t q = 0; q < columns_; ++q)
        if (whole || changed[static_cast<size_t>(q / m_)])
          maxima_[static_cast<size_t>(p * columns_ + q)] = sum_maxima(threshold_.data() + p * rows_, column(q), rows_);
    });
  }

  int64_t rows_, columns_, n_, m_;
  double least_ = 0;
  std::vector<double> magnitude_, threshold_, rest_, kept_, maxima_;
};

// The splitmix64 generator.
uint64_t next_random(uint64_t &state) {
  uint64_t bits = state += 0x9e3779b97f4a7c15u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

}  // namespace

void search_permutation(const float *w, int64_t rows, int64_t columns, int64_t n, int64_t m, int64_t attempts,
                        const PermutationTarget &to) {
  constexpr int64_t most_side = int64_t{1} << 20;
  require_size(m, 2, most_m, "m");
  require_size(n, 1, m - 1, "n");
  require_size(rows, 1, most_side, "rows");
  require_size(columns, m, most_side, "columns");
  require_size(attempts, 0, most_side, "attempts");
  if (columns % m != 0)
    throw Error(MOE_INVALID_ARGUMENT, "columns", "a multiple of " + std::to_string(m), std::to_string(columns));
  require_finite(w, checked_multiply(rows, columns, "rows"), "weight");
  Search search(w, rows, columns, n, m);
  to.kept[0] = search.kept();
  search.climb();
  std::vector<int32_t> best = search.order;
  double most = search.kept();
  uint64_t state = 0;
  for (int64_t attempt = 0; attempt < attempts; ++attempt) {
    const auto side = static_cast<uint64_t>(columns);
    const uint64_t swaps = 2 + next_random(state) % (side / 4 + 1);
    for (uint64_t swap = 0; swap < swaps; ++swap) {
      const uint64_t one = next_random(state) % side, other = next_random(state) % side;
      std::swap(search.order[one], search.order[other]);
    }
    search.refresh_all();
    search.climb();
    if (search.kept() > most) {
      most = search.kept();
      best = search.order;
    } else {
      search.order = best;
    }
  }
  std::copy(best.begin(), best.end(), to.permutation);
  to.kept[1] = most;
}

}  // namespace moe::numerics
