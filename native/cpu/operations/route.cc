// route: scores, choice and gates of each token, then the rows of the bank in order of slot.
//
// Layout: logits [T, E], ids and gates [T, K], row_of [T, K], token_of and gate_of [R = T·K], offsets [S + 1]; all
// dense, row-major. Scores are taken in double and rounded once to f32, so that order and ties do not hang on the
// accuracy of an approximation. The rows are a stable counting sort: one pass counts, one places.
// Where experts choose, each finds the last token that it takes by selection, in O(T); a token then compares its row of
// scores with those of the last taken, so that nothing is written by two threads.
// Bound: T·E exponentials (softmax, sigmoid) against the E·H products of the router before it, so far below 1 %; the
// sort moves T·K·16 bytes and is serial, and so is the drop at a capacity.
// Reached: 2.3 µs a token at 128 experts, top-8 (AVX-512, 2 Cascade Lake cores, 2026-11-22; docs/performance.md).
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "operations/layout.h"

namespace moe::cpu {
namespace {

constexpr float largest_logit = 3e38f;

// Clamped to the range of finite numbers; NaN is the lowest.
float clean(float logit) {
  return std::isnan(logit) ? -largest_logit : std::min(std::max(logit, -largest_logit), largest_logit);
}

void score_row(const moe_route &a, const float *logits, double *exponentials, float *scores) {
  if (a.score == MOE_IDENTITY) {
    for (int32_t e = 0; e < a.experts; ++e) scores[e] = clean(logits[e]);
  } else if (a.score == MOE_SIGMOID) {
    for (int32_t e = 0; e < a.experts; ++e)
      scores[e] = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(clean(logits[e])))));
  } else if (a.score == MOE_RELU_SCORE || a.score == MOE_RELU_NORM) {
    double squares = 0;
    for (int32_t e = 0; e < a.experts; ++e) {
      scores[e] = clean(logits[e]) > 0 ? clean(logits[e]) : 0;
      squares += static_cast<double>(scores[e]) * static_cast<double>(scores[e]);
    }
    if (a.score == MOE_RELU_SCORE || squares == 0) return;  // no logit is above 0: 0, whatever epsilon is
    const double norm = std::sqrt(squares / a.experts + static_cast<double>(a.epsilon));
    for (int32_t e = 0; e < a.experts; ++e) scores[e] = static_cast<float>(static_cast<double>(scores[e]) / norm);
  } else {
    double sum = 0;
    float largest = -largest_logit;
    for (int32_t e = 0; e < a.experts; ++e) largest = std::max(largest, clean(logits[e]));
    for (int32_t e = 0; e < a.experts; ++e)
      sum += exponentials[e] = std::exp(static_cast<double>(clean(logits[e])) - static_cast<double>(largest));
    for (int32_t e = 0; e < a.experts; ++e) scores[e] = static_cast<float>(exponentials[e] / sum);
  }
}

constexpr float lowest = -std::numeric_limits<float>::infinity();
constexpr float excluded = std::numeric_limits<float>::quiet_NaN();  // a choice that is not there

// Inserts candidates in order of index into a list of at most `capacity`, best first; equal values keep their order.
struct BestList {
  int32_t *ids;
  const float *values;
  int32_t capacity, count = 0;

  void offer(int32_t candidate) {
    const float value = values[candidate];
    if (std::isnan(value)) return;
    if (count == capacity && !(value > values[ids[count - 1]])) return;
    int32_t at = count < capacity ? count++ : count - 1;
    for (; at > 0 && value > values[ids[at - 1]]; --at) ids[at] = ids[at - 1];
    ids[at] = candidate;
  }
};

// Excludes every run of experts that does not stay.
void limit_groups(const moe_route &a, bool pairs, float *choices) {
  const int32_t width = a.experts / a.expert_groups;
  float *worth = choices + a.experts;
  for (int32_t g = 0; g < a.expert_groups; ++g) {
    float first = lowest, second = lowest;
    for (int32_t e = g * width; e < (g + 1) * width; ++e) {
      second = std::max(second, std::min(first, choices[e]));
      first = std::max(first, choices[e]);
    }
    worth[g] = pairs && width > 1 ? first + second : first;
    if (std::isnan(worth[g])) worth[g] = lowest;
  }
  for (int32_t g = 0; g < a.expert_groups; ++g) {
    int32_t better = 0;  // runs that come before this one; there are few
    for (int32_t other = 0; other < a.expert_groups; ++other)
      better += worth[other] > worth[g] || (worth[other] == worth[g] && other < g);
    if (better >= a.kept_groups) std::fill(choices + g * width, choices + (g + 1) * width, excluded);
  }
}

void choose(const moe_route &a, const float *scores, const float *bias, float *choices, int32_t *ids) {
  for (int32_t e = 0; e < a.experts; ++e) {
    choices[e] = bias != nullptr ? scores[e] + bias[e] : scores[e];
    if (std::isnan(choices[e])) choices[e] = lowest;
    if (a.choice == MOE_CHOICE_NON_ZERO && !(scores[e] > 0)) choices[e] = excluded;
  }
  if (a.expert_groups > 1) limit_groups(a, bias != nullptr, choices);
  std::fill(ids, ids + a.top_k, -1);
  BestList best{ids, choices, a.top_k};
  for (int32_t e = 0; e < a.experts; ++e) best.offer(e);
}

// The last of the tokens that expert `e` takes; candidates: room for all tokens, of which there are some.
Candidate last_taken(const moe_route &a, int32_t e, const float *scores, int32_t tokens, Candidate *candidates) {
  for (int32_t t = 0; t < tokens; ++t) candidates[t] = {scores[int64_t{t} * a.experts + e], t};
  Candidate *const last = candidates + std::min(a.capacity, tokens) - 1;
  std::nth_element(candidates, last, candidates + tokens,
                   [](const Candidate &one, const Candidate &other) { return one.before(other); });
  return *last;
}

// The experts that took token t, up to top_k, in ascending order.
void list_takers(const moe_route &a, int32_t t, const float *scores, const Candidate *last, int32_t *ids) {
  int32_t count = 0;
  for (int32_t e = 0; e < a.experts && count < a.top_k; ++e)
    if (!last[e].before({scores[e], t})) ids[count++] = e;
  std::fill(ids + count, ids + a.top_k, -1);
}

// Of each expert's choices all after the first `capacity` become none; taken: room for E counts.
void drop(const moe_route &a, int64_t choices, int32_t *ids, float *gates, int32_t *taken) {
  std::fill(taken, taken + a.experts, 0);
  for (int64_t i = 0; i < choices; ++i) {
    if (ids[i] < 0 || taken[ids[i]]++ < a.capacity) continue;
    ids[i] = -1;
    gates[i] = 0;
  }
}

// raw(j): the gate of choice j before renormalisation; in double, rounded once.
template <typename Raw>
void finish_gates(const moe_route &a, const Raw &raw, float *gates) {
  double sum = 0;
  for (int32_t j = 0; j < a.top_k; ++j) sum += raw(j);
  const double divisor = a.renormalize && sum != 0 ? sum : 1;
  for (int32_t j = 0; j < a.top_k; ++j) gates[j] = static_cast<float>(raw(j) / divisor * static_cast<double>(a.scale));
}

// The rows and who they are for; every pointer may be null but ids, gates, rank and counts.
struct Rows {
  const moe_route &a;
  int64_t tokens;
  const int32_t *ids, *group_of;
  const float *gates;
  int32_t *row_of, *token_of;
  float *gate_of;
  int32_t *offsets, *rank, *counts;

  int32_t slot(int32_t id) const {
    if (id < 0) return -1;
    const int32_t slot = group_of != nullptr ? group_of[id] : id;
    return slot >= 0 && slot < a.slots ? slot : -1;
  }

  void put(int64_t row, int64_t token, float gate) const {
    if (token_of != nullptr) token_of[row] = static_cast<int32_t>(token);
    if (gate_of != nullptr) gate_of[row] = gate;
  }

  // One row a choice, in order of (slot, id, token).
  void by_expert() const {
    int32_t next = 0;
    if (group_of == nullptr) {
      for (int32_t e = 0; e < a.experts; ++e) rank[e] = e;
    } else {  // counting sort of the experts by slot
      std::fill(counts, counts + a.slots + 1, 0);
      for (int32_t e = 0; e < a.experts; ++e)
        if (slot(e) >= 0) ++counts[slot(e) + 1];
      for (int32_t s = 0; s < a.slots; ++s) counts[s + 1] += counts[s];
      for (int32_t e = 0; e < a.experts; ++e)
        if (slot(e) >= 0) rank[e] = counts[slot(e)]++;
    }
    std::fill(counts, counts + a.experts, 0);
    if (offsets != nullptr) std::fill(offsets, offsets + a.slots + 1, 0);
    for (int64_t i = 0; i < tokens * a.top_k; ++i) {
      const int32_t s = slot(ids[i]);
      if (s < 0) continue;
      ++counts[rank[ids[i]]];
      if (offsets != nullptr) ++offsets[s + 1];
    }
    for (int32_t s = 0; s < a.slots && offsets != nullptr; ++s) offsets[s + 1] += offsets[s];
    for (int32_t e = 0; e < a.experts; ++e) next += std::exchange(counts[e], next);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = t * a.top_k; i < (t + 1) * a.top_k; ++i) {
        const bool runs = slot(ids[i]) >= 0;
        const int32_t row = runs ? counts[rank[ids[i]]]++ : -1;
        if (row_of != nullptr) row_of[i] = row;
        if (runs) put(row, t, gates[i]);
      }
  }

  // Choices of one token in one slot are one row, in order of (slot, token).
  void by_slot() const {
    const auto first_of = [&](int64_t t, int64_t i, int32_t s) {
      for (int64_t before = t * a.top_k; before < i; ++before)
        if (slot(ids[before]) == s) return before;
      return i;
    };
    std::fill(counts, counts + a.slots + 1, 0);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = t * a.top_k; i < (t + 1) * a.top_k; ++i)
        if (const int32_t s = slot(ids[i]); s >= 0 && first_of(t, i, s) == i) ++counts[s + 1];
    for (int32_t s = 0; s < a.slots; ++s) counts[s + 1] += counts[s];
    if (offsets != nullptr) std::copy(counts, counts + a.slots + 1, offsets);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = t * a.top_k; i < (t + 1) * a.top_k; ++i) {
        const int32_t s = slot(ids[i]);
        if (s >= 0 && first_of(t, i, s) == i) {
          double gate = 0;
          for (int64_t same = i; same < (t + 1) * a.top_k; ++same)
            if (slot(ids[same]) == s) gate += static_cast<double>(gates[same]);
          put(counts[s]++, t, static_cast<float>(gate));
        }
        if (row_of != nullptr) row_of[i] = s >= 0 ? counts[s] - 1 : -1;
      }
  }
};

}  // namespace

void route(const Context &c) {
  const moe_route &a = c.attribute<moe_route>();
  const RouteScratch at = route_scratch(c);
  const Operand &logits = c.input[0], &given_ids = c.input[3], &given_gates = c.input[4];
  const float *bias = c.input[1].as<const float>();
  const int64_t tokens = logits ? logits.rows : given_ids.rows, words = sizeof(float);
  const bool scored = !(given_ids && given_gates), by_experts = a.choice == MOE_CHOICE_EXPERT && !given_ids;
  const auto output = [&](int index, int64_t otherwise) {
    return c.output[index] ? c.output[index].data : otherwise >= 0 ? c.scratch + otherwise : nullptr;
  };
  int32_t *ids = static_cast<int32_t *>(output(0, at.ids));
  float *gates = static_cast<float *>(output(1, at.gates));
  int32_t *counts = reinterpret_cast<int32_t *>(c.scratch + at.counts);
  float *all_scores = reinterpret_cast<float *>(c.scratch + at.scores);  // [T][E], or [threads][E]
  Candidate *last = reinterpret_cast<Candidate *>(c.scratch + at.last_taken);
  const auto score_token = [&](int64_t t, int thread, float *scores) {
    double *exponentials = reinterpret_cast<double *>(c.scratch + at.exponentials) + int64_t{thread} * a.experts;
    score_row(a, logits.as<const float>() + t * a.experts, exponentials, scores);
  };
  if (by_experts && tokens > 0) {
    c.parallel_for(tokens, tokens * a.experts * 40,
                   [&](int64_t t, int thread) { score_token(t, thread, all_scores + t * a.experts); });
    c.parallel_for(a.experts, tokens * a.experts * 20, [&](int64_t e, int thread) {
      Candidate *candidates = reinterpret_cast<Candidate *>(c.scratch + at.candidates) + thread * tokens;
      last[e] = last_taken(a, static_cast<int32_t>(e), all_scores, static_cast<int32_t>(tokens), candidates);
    });
  }
  c.parallel_for(tokens, tokens * a.experts * 40, [&](int64_t t, int thread) {
    float *scores = all_scores + (by_experts ? t : thread) * a.experts;
    float *choices =
        reinterpret_cast<float *>(c.scratch + at.choices + thread * (int64_t{a.experts} + a.expert_groups) * words);
    const int64_t first = t * a.top_k;
    if (by_experts) {
      list_takers(a, static_cast<int32_t>(t), scores, last, ids + first);
    } else {
      if (scored) score_token(t, thread, scores);
      if (!given_ids) choose(a, scores, bias, choices, ids + first);
    }
    for (int32_t j = 0; j < a.top_k && given_ids; ++j) {
      const int32_t id = given_ids.as<const int32_t>()[first + j];
      ids[first + j] = id >= 0 && id < a.experts ? id : -1;
    }
    finish_gates(
        a,
        [&](int32_t j) {
          const int32_t id = ids[first + j];
          if (id < 0) return 0.0;
          return static_cast<double>(scored ? scores[id] : given_gates.as<const float>()[first + j]);
        },
        gates + first);
  });
  if (a.capacity > 0 && !by_experts) drop(a, tokens * a.top_k, ids, gates, counts);
  const Rows rows{a,
                  tokens,
                  ids,
                  c.input[2].as<const int32_t>(),
                  gates,
                  static_cast<int32_t *>(output(2, -1)),
                  static_cast<int32_t *>(output(3, -1)),
                  static_cast<float *>(output(4, -1)),
                  static_cast<int32_t *>(output(5, -1)),
                  reinterpret_cast<int32_t *>(c.scratch + at.rank),
                  counts};
  if (a.coalesce && rows.group_of != nullptr) {
    rows.by_slot();
  } else {
    rows.by_expert();
  }
}

}  // namespace moe::cpu
