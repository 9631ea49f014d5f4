// Bound: columns³ / 2 multiply-adds for the factor, rows·columns² / 2 for the feedback.
#include "numerics/sparse_gpt.h"

#include <algorithm>
#include <vector>

#include "moe/checked.h"
#include "numerics/check.h"
#include "numerics/feedback.h"

namespace moe::numerics {
namespace {

constexpr int64_t wanted_block = 128, most_m = 256;

}  // namespace

void sparse_gpt(const float *w, const double *hessian, int64_t rows, int64_t columns, const SparseGptOptions &options,
                uint8_t *mask, float *to) {
  constexpr int64_t most_side = int64_t{1} << 24;
  require_size(rows, 0, most_side, "rows");
  require_size(columns, 1, most_side, "columns");
  require_size(options.m, 2, most_m, "m");
  require_size(options.n, 1, options.m, "n");
  const int64_t count = checked_multiply(rows, columns, "rows"), m = options.m;
  require_finite(w, count, "weight");
  const Feedback feedback = prepare_feedback(hessian, columns, options.damping, false);
  const double *const u = feedback.factor.data();
  std::vector<double> work(w, w + count);
  for (int64_t i = 0; i < count; ++i)
    if (feedback.dead[static_cast<size_t>(i % columns)]) work[static_cast<size_t>(i)] = 0;
  const int64_t block = std::max(wanted_block / m, int64_t{1}) * m;  // runs do not cross blocks
  round_with_feedback(work.data(), rows, columns, block, feedback.factor, [&](const Visit &visit) {
    uint8_t *const kept = mask + visit.row * columns + visit.column;
    if (visit.column % m == 0) {
      const int64_t width = std::min(m, visit.left);
      double score[most_m];
      for (int64_t j = 0; j < width; ++j) {
        const double share = visit.current[j] / u[(visit.column + j) * (columns + 1)];
        score[j] = share * share;
      }
      for (int64_t j = 0; j < width; ++j) {
        int64_t better = 0;
        for (int64_t other = 0; other < width; ++other)
          better += score[other] > score[j] || (score[other] == score[j] && other < j);
        kept[j] = better < options.n;
      }
    }
    return *kept ? *visit.current : 0.0;
  });
  std::transform(work.begin(), work.end(), to, [](double value) { return static_cast<float>(value); });
  for (int64_t i = 0; i < count; ++i)
    if (feedback.dead[static_cast<size_t>(i % columns)]) mask[i] = 0;
}

}  // namespace moe::numerics
