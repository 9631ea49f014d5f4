// Log-probabilities over logits [T, V]: log p[v] = x[v] − highest − log Σ exp(x − highest), of given ids and of the
// top_k largest. Logits are read as route reads them: NaN is the lowest, all within ±3e38; ties to the lower id.
// Rounding: in double, rounded once to f32. Bound: bytes of the logits.
#include <algorithm>
#include <cmath>

#include "reference.h"

namespace moe::reference {

int64_t plan_score(const Node &node) {
  const Tensor &logits = node.input[0], &ids = node.input[1];
  const int64_t top_k = node.as<moe_score>().top_k;
  expect_float(logits, "logits");
  expect(top_k >= 0 && top_k <= logits.width(), "topK", "from 0 to " + std::to_string(logits.width()), top_k);
  if (ids) expect_dtype(ids, MOE_I32, "ids"), expect_count(ids, logits.rows(), "ids");
  const int32_t kinds[] = {MOE_F32, MOE_I32, MOE_F32};
  const char *names[] = {"logProbability", "topIds", "topLogProbabilities"};
  for (size_t i = 0; i < 3; ++i) {
    if (!node.output[i]) continue;
    expect_dtype(node.output[i], kinds[i], names[i]);
    expect_count(node.output[i], checked_multiply(logits.rows(), i == 0 ? 1 : top_k, "topK"), names[i]);
  }
  expect(ids || !node.output[0], "ids", "ids for logProbability", 0);
  return 0;
}

void run_score(const Node &node) {
  const Tensor &logits = node.input[0], &ids = node.input[1];
  const Tensor &of_ids = node.output[0], &top_ids = node.output[1], &of_top = node.output[2];
  const int64_t top_k = node.as<moe_score>().top_k, width = logits.width();
  for (int64_t t = 0; t < logits.rows(); ++t) {
    const auto logit = [&](int64_t v) { return static_cast<double>(clamped_logit(logits.at(t * width + v))); };
    double highest = -HUGE_VAL, total = 0;
    for (int64_t v = 0; v < width; ++v) highest = std::max(highest, logit(v));
    for (int64_t v = 0; v < width; ++v) total += std::exp(logit(v) - highest);
    const double log_total = std::log(total);
    const auto log_probability = [&](int64_t v) { return logit(v) - highest - log_total; };
    if (of_ids) {
      const int64_t id = ids.integer(t);
      of_ids.set(t, id >= 0 && id < width ? log_probability(id) : 0);
    }
    int64_t last =
        -1;  // the choice before: the next is the best of what comes after it in (logit descending, id ascending)
    for (int64_t j = 0; j < top_k; ++j) {
      int64_t best = -1;
      for (int64_t v = 0; v < width; ++v) {
        const bool left = last < 0 || logit(v) < logit(last) || (logit(v) == logit(last) && v > last);
        if (left && (best < 0 || logit(v) > logit(best))) best = v;
      }
      last = best;
      if (top_ids) top_ids.set_integer(t * top_k + j, static_cast<int32_t>(best));
      if (of_top) of_top.set(t * top_k + j, log_probability(best));
    }
  }
}

}  // namespace moe::reference
