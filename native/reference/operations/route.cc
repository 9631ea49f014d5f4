// Chooses top_k experts a token and lays out the rows of the bank that will run; operations.h has the rules.
// logits [T, E] → ids, gates, row_of [T, K]; token_of, gate_of [T·K]; offsets [S + 1].
// Rounding: the score in double, rounded once to f32; score + bias, and the sum that ranks a run of experts, in f32, so
// that ties are the same on every device; gates in double from the f32 scores, rounded once; a coalesced gate is summed
// in double from its f32 gates. Bound: bytes of the logits; the layout is a sort of T·K keys.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "reference.h"

namespace moe::reference {

namespace {

constexpr float lowest = -std::numeric_limits<float>::infinity();

struct Key {
  int32_t slot, id, token, choice;
  auto order() const { return std::tuple(slot, id, token, choice); }
};

struct Scratch {
  double *exponentials;                    // [E]
  float *scores, *choices, *runs, *gates;  // [T·E], [E], [expert_groups], [T·K]
  int32_t *ids, *taken, *queue;            // [T·K], [E], [T]
  Key *keys;                               // [T·K]
};

struct Operands {
  const Tensor &logits, &bias, &group_of, &ids, &gates;
  const moe_route &attributes;

  int64_t tokens() const { return ids ? ids.rows() : logits.rows(); }
  int64_t choices() const { return tokens() * attributes.top_k; }
  bool scored() const { return logits && !(ids && gates); }
};

Operands operands(const Node &node) {
  const auto &in = node.input;
  return {in[0], in[1], in[2], in[3], in[4], node.as<moe_route>()};
}

Scratch divide(const Operands &o, std::byte *scratch) {
  const int64_t experts = o.attributes.experts;
  Scratch parts{};
  parts.exponentials = reinterpret_cast<double *>(scratch);
  parts.scores = reinterpret_cast<float *>(parts.exponentials + experts);
  parts.choices = parts.scores + (o.scored() ? o.tokens() * experts : 0);
  parts.runs = parts.choices + experts;
  parts.gates = parts.runs + experts;
  parts.ids = reinterpret_cast<int32_t *>(parts.gates + o.choices());
  parts.taken = parts.ids + o.choices();
  parts.queue = parts.taken + experts;
  parts.keys = reinterpret_cast<Key *>(parts.queue + o.tokens());
  return parts;
}

void compute_scores(const Operands &o, int64_t t, const Scratch &scratch) {
  const int64_t experts = o.attributes.experts;
  const int32_t kind = o.attributes.score;
  float *scores = scratch.scores + t * experts, highest = lowest;
  double total = 0;
  for (int64_t e = 0; e < experts; ++e) {
    scores[e] = clamped_logit(o.logits.at(t * experts + e));
    if (kind == MOE_RELU_NORM || kind == MOE_RELU_SCORE) scores[e] = scores[e] > 0 ? scores[e] : 0;
    highest = std::max(highest, scores[e]);
  }
  if (kind == MOE_SIGMOID) {
    for (int64_t e = 0; e < experts; ++e)
      scores[e] = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(scores[e]))));
  } else if (kind == MOE_SOFTMAX) {
    for (int64_t e = 0; e < experts; ++e)
      total += scratch.exponentials[e] = std::exp(static_cast<double>(scores[e]) - static_cast<double>(highest));
    for (int64_t e = 0; e < experts; ++e) scores[e] = static_cast<float>(scratch.exponentials[e] / total);
  } else if (kind == MOE_RELU_NORM && highest > 0) {  // else all are 0 already, and 0 / 0 is not
    for (int64_t e = 0; e < experts; ++e) total += static_cast<double>(scores[e]) * static_cast<double>(scores[e]);
    const double norm = std::sqrt(total / static_cast<double>(experts) + static_cast<double>(o.attributes.epsilon));
    for (int64_t e = 0; e < experts; ++e) scores[e] = static_cast<float>(static_cast<double>(scores[e]) / norm);
  }
}

// Takes the largest out of `values` (so that the next call gives the next); the lower index of equals, −1 where none is
// left.
int64_t take_best(float *values, int64_t begin, int64_t end) {
  int64_t best = -1;
  for (int64_t i = begin; i < end; ++i) {
    if (!std::isnan(values[i]) && (best < 0 || values[i] > values[best])) best = i;
  }
  if (best >= 0) values[best] = std::numeric_limits<float>::quiet_NaN();  // NaN: no longer there
  return best;
}

// What a run of experts counts: its best choice, or with a bias the sum of its best two.
float rank_run(const Operands &o, const float *choices, int64_t begin, int64_t end) {
  float first = lowest, second = lowest;
  for (int64_t e = begin; e < end; ++e) {
    if (choices[e] > first) {
      second = first, first = choices[e];
    } else if (choices[e] > second) {
      second = choices[e];
    }
  }
  const float sum = first + second;
  return o.bias && end - begin > 1 ? (std::isnan(sum) ? lowest : sum) : first;
}

void choose(const Operands &o, int64_t t, const Scratch &scratch) {
  const auto &attributes = o.attributes;
  const int64_t experts = attributes.experts, groups = attributes.expert_groups, run = experts / groups;
  for (int64_t e = 0; e < experts; ++e) {
    const float score = scratch.scores[t * experts + e];
    const float choice = score + (o.bias ? static_cast<float>(o.bias.at(e)) : 0.0f);
    scratch.choices[e] = std::isnan(choice) ? lowest : choice;
    if (attributes.choice == MOE_CHOICE_NON_ZERO && !(score > 0))
      scratch.choices[e] = std::numeric_limits<float>::quiet_NaN();  // not there
  }
  if (groups > 1) {
    for (int64_t g = 0; g < groups; ++g) scratch.runs[g] = rank_run(o, scratch.choices, g * run, (g + 1) * run);
    for (int64_t kept = 0; kept < attributes.kept_groups; ++kept) take_best(scratch.runs, 0, groups);
    for (int64_t e = 0; e < experts; ++e) {
      if (!std::isnan(scratch.runs[e / run])) scratch.choices[e] = std::numeric_limits<float>::quiet_NaN();  // not kept
    }
  }
  for (int64_t j = 0; j < attributes.top_k; ++j)
    scratch.ids[t * attributes.top_k + j] = static_cast<int32_t>(take_best(scratch.choices, 0, experts));
}

// Each expert in turn takes its tokens, so that the experts of a token come in ascending order.
void choose_tokens(const Operands &o, const Scratch &scratch) {
  const int64_t experts = o.attributes.experts, top_k = o.attributes.top_k, tokens = o.tokens();
  const int64_t capacity = std::min<int64_t>(o.attributes.capacity, tokens);
  std::fill(scratch.ids, scratch.ids + o.choices(), -1);
  for (int64_t e = 0; e < experts; ++e) {
    const auto score = [&](int32_t token) { return scratch.scores[token * experts + e]; };
    std::iota(scratch.queue, scratch.queue + tokens, 0);
    std::partial_sort(scratch.queue, scratch.queue + capacity, scratch.queue + tokens,
                      [&](int32_t a, int32_t b) { return std::tuple(-score(a), a) < std::tuple(-score(b), b); });
    for (int64_t i = 0; i < capacity; ++i) {
      int32_t *row = scratch.ids + scratch.queue[i] * top_k, *const free = std::find(row, row + top_k, -1);
      if (free != row + top_k) *free = static_cast<int32_t>(e);
    }
  }
}

// Of each expert's choices all after the first `capacity` become none.
void drop(const Operands &o, const Scratch &scratch) {
  std::fill(scratch.taken, scratch.taken + o.attributes.experts, 0);
  for (int64_t i = 0; i < o.choices(); ++i) {
    if (scratch.ids[i] < 0 || ++scratch.taken[scratch.ids[i]] <= o.attributes.capacity) continue;
    scratch.ids[i] = -1;
    scratch.gates[i] = 0;
  }
}

void compute_gates(const Operands &o, int64_t t, const Scratch &scratch) {
  const auto &attributes = o.attributes;
  const int64_t begin = t * attributes.top_k;
  const auto raw = [&](int64_t j) -> double {
    const int32_t id = scratch.ids[begin + j];
    if (id < 0) return 0;
    return o.scored() ? static_cast<double>(scratch.scores[t * attributes.experts + id]) : o.gates.at(begin + j);
  };
  double sum = 0;
  for (int64_t j = 0; j < attributes.top_k; ++j) sum += raw(j);
  const double divisor = attributes.renormalize && sum != 0 ? sum : 1;
  for (int64_t j = 0; j < attributes.top_k; ++j)
    scratch.gates[begin + j] = static_cast<float>(raw(j) / divisor * static_cast<double>(attributes.scale));
}

// −1: the choice has no row.
int32_t slot_of(const Operands &o, int32_t id) {
  if (id < 0) return -1;
  const int32_t slot = o.group_of ? o.group_of.integer(id) : id;
  return slot >= 0 && slot < o.attributes.slots ? slot : -1;
}

void lay_out(const Operands &o, const Node &node, const Scratch &scratch) {
  const Tensor &row_of = node.output[2], &token_of = node.output[3], &gate_of = node.output[4],
               &offsets = node.output[5];
  const int64_t top_k = o.attributes.top_k;
  const bool coalesce = o.attributes.coalesce && o.group_of;
  int64_t count = 0;
  for (int64_t i = 0; i < o.choices(); ++i) {
    if (row_of) row_of.set_integer(i, -1);
    const int32_t slot = slot_of(o, scratch.ids[i]);
    if (slot < 0) continue;
    scratch.keys[count++] = {slot, coalesce ? 0 : scratch.ids[i], static_cast<int32_t>(i / top_k),
                             static_cast<int32_t>(i % top_k)};
  }
  std::sort(scratch.keys, scratch.keys + count, [](const Key &a, const Key &b) { return a.order() < b.order(); });
  int32_t rows = 0, slot = 0;
  if (offsets) offsets.set_integer(0, 0);
  for (int64_t i = 0; i < count;) {
    const Key &first = scratch.keys[i];
    for (; offsets && slot < first.slot; ++slot) offsets.set_integer(slot + 1, rows);
    double gate = 0;
    do {
      const int64_t choice = int64_t{scratch.keys[i].token} * top_k + scratch.keys[i].choice;
      gate += static_cast<double>(scratch.gates[choice]);
      if (row_of) row_of.set_integer(choice, rows);
      ++i;
    } while (coalesce && i < count && scratch.keys[i].slot == first.slot && scratch.keys[i].token == first.token);
    if (token_of) token_of.set_integer(rows, first.token);
    if (gate_of) gate_of.set(rows, gate);
    ++rows;
  }
  for (; offsets && slot < o.attributes.slots; ++slot) offsets.set_integer(slot + 1, rows);
}

}  // namespace

int64_t plan_route(const Node &node) {
  const Operands o = operands(node);
  const auto &attributes = o.attributes;
  const int64_t experts = attributes.experts, top_k = attributes.top_k, groups = attributes.expert_groups;
  expect(attributes.score >= MOE_SOFTMAX && attributes.score <= MOE_RELU_SCORE, "score",
         "softmax (0), sigmoid (1), identity (2), relu_norm (3) or relu (4)", attributes.score);
  expect(attributes.choice >= MOE_CHOICE_TOP_K && attributes.choice <= MOE_CHOICE_EXPERT, "choice",
         "top_k (0), non_zero (1) or expert (2)", attributes.choice);
  expect(attributes.capacity >= (attributes.choice == MOE_CHOICE_EXPERT ? 1 : 0), "capacity",
         "0 or more, at least 1 where experts choose", attributes.capacity);
  expect(experts >= 1 && attributes.slots >= 1, "experts", "at least 1, and slots too", experts);
  expect(top_k >= 1 && (o.ids || top_k <= experts), "topK", "from 1 to " + std::to_string(experts), top_k);
  expect(groups >= 1 && experts % groups == 0, "expertGroups", "a divisor of " + std::to_string(experts), groups);
  expect(attributes.kept_groups >= 1 && attributes.kept_groups <= groups, "keptGroups",
         "from 1 to " + std::to_string(groups), attributes.kept_groups);
  expect(o.ids || top_k <= experts / groups * attributes.kept_groups, "topK", "at most the experts of the kept groups",
         top_k);
  if (!o.logits && !(o.ids && o.gates))
    throw Error(MOE_INVALID_ARGUMENT, "logits", "logits, or ids and gates", "neither");
  if (o.logits) {
    expect_float(o.logits, "logits");
    expect_count(o.logits, checked_multiply(o.tokens(), experts, "logits"), "logits");
  }
  if (o.bias) expect_float(o.bias, "bias"), expect_count(o.bias, experts, "bias");
  if (o.group_of) expect_dtype(o.group_of, MOE_I32, "groupOf"), expect_count(o.group_of, experts, "groupOf");
  const int64_t choices = checked_multiply(o.tokens(), top_k, "topK");
  expect(choices <= std::numeric_limits<int32_t>::max(), "topK", "fewer than 2^31 rows", choices);
  if (o.ids) expect_dtype(o.ids, MOE_I32, "ids"), expect_count(o.ids, choices, "ids");
  if (o.gates) expect_float(o.gates, "gates"), expect_count(o.gates, choices, "gates");
  const char *names[] = {"ids", "gates", "rowOf", "tokenOf", "gateOf", "offsets"};
  const int32_t kinds[] = {MOE_I32, MOE_F32, MOE_I32, MOE_I32, MOE_F32, MOE_I32};
  for (size_t i = 0; i < 6; ++i) {
    if (!node.output[i]) continue;
    expect_dtype(node.output[i], kinds[i], names[i]);
    expect_count(node.output[i], i == 5 ? int64_t{attributes.slots} + 1 : choices, names[i]);
  }
  const int64_t scores = o.scored() ? checked_multiply(o.tokens(), experts, "logits") : 0;
  const int64_t words = checked_add(checked_add(scores, o.tokens(), "scratch"), experts * 5, "scratch");
  return checked_add(checked_multiply(words, 4, "scratch"),
                     checked_multiply(choices, 8 + static_cast<int64_t>(sizeof(Key)), "scratch"), "scratch");
}

void run_route(const Node &node) {
  const Operands o = operands(node);
  const Scratch scratch = divide(o, node.scratch);
  const bool by_experts = o.attributes.choice == MOE_CHOICE_EXPERT && !o.ids;
  for (int64_t t = 0; o.scored() && t < o.tokens(); ++t) compute_scores(o, t, scratch);
  for (int64_t t = 0; !o.ids && !by_experts && t < o.tokens(); ++t) choose(o, t, scratch);
  if (by_experts) choose_tokens(o, scratch);
  for (int64_t i = 0; o.ids && i < o.choices(); ++i) {
    const int32_t id = o.ids.integer(i);
    scratch.ids[i] = id >= 0 && id < o.attributes.experts ? id : -1;
  }
  for (int64_t t = 0; t < o.tokens(); ++t) compute_gates(o, t, scratch);
  if (o.attributes.capacity > 0 && !by_experts) drop(o, scratch);
  for (int64_t i = 0; i < o.choices(); ++i) {
    if (node.output[0]) node.output[0].set_integer(i, scratch.ids[i]);
    if (node.output[1]) node.output[1].set(i, static_cast<double>(scratch.gates[i]));
  }
  lay_out(o, node, scratch);
}

}  // namespace moe::reference
