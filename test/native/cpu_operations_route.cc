// cpu route against the reference: choices, ties, group limits, given ids, the layout of rows, broken logits.
#include "cpu_operations.h"

namespace moe::test {
namespace {

struct Form {
  int64_t tokens, experts;
  moe_route attributes;
  bool bias = false, ids = false, gates = false, grouped = false;
};

// Logits on a coarse grid: many exact ties.
Array coarse_logits(int64_t tokens, int64_t experts) {
  Array logits = random_array(MOE_F32, {tokens, experts}, 1, 2);
  for (int64_t i = 0; i < logits.size(); ++i) logits.set(i, std::round(logits.at(i) * 4) / 4);
  return logits;
}

Case route_case(const Form &form, Array logits) {
  Case graph;
  const int64_t top_k = form.attributes.top_k;
  const int32_t slots = form.attributes.slots, experts = static_cast<int32_t>(form.experts);
  const int32_t tokens = graph.symbol_of(form.tokens);
  const int x = form.ids && form.gates ? -1 : graph.input(std::move(logits), {symbol(tokens), form.experts});
  const int bias = form.bias ? graph.constant(random_array(MOE_F32, {form.experts}, 2)) : -1;
  const int group_of = form.grouped ? graph.constant(random_integers({form.experts}, 3, -1, slots)) : -1;
  const int ids =
      form.ids ? graph.input(random_integers({form.tokens, top_k}, 4, -2, experts + 1), {symbol(tokens), top_k}) : -1;
  const int gates =
      form.gates ? graph.input(random_array(MOE_F32, {form.tokens, top_k}, 5), {symbol(tokens), top_k}) : -1;
  const Shape choices{symbol(tokens), top_k}, rows{symbol(tokens, top_k)};
  // Rows past the last slot's are unspecified: what stood there stays in both.
  graph.node(
      MOE_ROUTE, form.attributes, {x, bias, group_of, ids, gates},
      {graph.output(MOE_I32, choices, 9), graph.output(MOE_F32, choices, 9), graph.output(MOE_I32, choices, 9),
       graph.output(MOE_I32, rows, 9), graph.output(MOE_F32, rows, 9), graph.output(MOE_I32, {int64_t{slots} + 1}, 9)});
  return graph;
}

// Everything against the reference; then the choice alone, row by row: the first two outputs are the last values that
// it needs.
void judge_route(const Form &form, const Array &logits) {
  Case graph = route_case(form, logits);
  judge(graph, 1e-6, false);
  if (form.attributes.capacity > 0) return;  // a row hangs on the others
  std::vector<int> &outputs = graph.nodes[0].outputs;
  outputs.resize(2);
  graph.values.erase(graph.values.begin() + outputs[1] + 1, graph.values.end());
  judge(graph, 1e-6);
}

moe_route plain_route(int32_t experts, int32_t top_k, int32_t score = MOE_SOFTMAX) {
  return {score, top_k, 1, 1, experts, experts, 1, 1, 1.0f};
}

TEST_CASE("cpu route: expert counts, top_k, scores, ties") {
  for (const auto &[experts, top_k] :
       {std::pair{1, 1}, {3, 2}, {8, 2}, {60, 4}, {72, 6}, {128, 8}, {257, 9}, {512, 16}}) {
    for (const int32_t score : {MOE_SOFTMAX, MOE_SIGMOID, MOE_IDENTITY}) {
      for (const bool bias : {false, true}) {
        CAPTURE(experts);
        CAPTURE(score);
        Form form{33, experts, plain_route(experts, top_k, score), bias};
        form.attributes.renormalize = score != MOE_IDENTITY;
        form.attributes.scale = 2.5f;
        judge_route(form, coarse_logits(33, experts));
      }
    }
  }
}

TEST_CASE("cpu route: ReLU scores, what is above zero") {
  for (const auto &[experts, top_k] : {std::pair{1, 1}, {60, 60}, {72, 9}, {257, 40}, {512, 16}}) {
    for (const int32_t score : {MOE_RELU_NORM, MOE_RELU_SCORE, MOE_IDENTITY}) {
      for (const bool bias : {false, true}) {
        CAPTURE(experts);
        CAPTURE(score);
        Form form{33, experts, plain_route(experts, top_k, score), bias};
        form.attributes.choice = MOE_CHOICE_NON_ZERO;
        form.attributes.epsilon = 0.5f;
        Array logits = coarse_logits(33, experts);
        for (int64_t e = 0; e < experts; ++e) logits.set(5 * experts + e, -1);  // a token without a choice
        judge_route(form, logits);
      }
    }
  }
}

TEST_CASE("cpu route: a capacity of each expert") {
  for (const int32_t capacity : {1, 3, 1000}) {
    for (const bool grouped : {false, true}) {
      for (const bool ids : {false, true}) {
        Form form{70, 60, plain_route(60, 4), false, ids, ids, grouped};
        form.attributes.capacity = capacity;
        if (grouped) form.attributes.slots = 7;
        judge_route(form, coarse_logits(70, 60));
      }
    }
  }
}

TEST_CASE("cpu route: experts choose tokens") {
  for (const auto &[tokens, experts] : {std::pair{0, 9}, {1, 60}, {65, 72}, {300, 257}}) {
    for (const int32_t capacity : {1, 7, 1000}) {
      for (const bool grouped : {false, true}) {
        CAPTURE(experts);
        CAPTURE(capacity);
        Form form{tokens, experts, plain_route(experts, 6), false, false, false, grouped};
        form.attributes.choice = MOE_CHOICE_EXPERT;
        form.attributes.capacity = capacity;
        if (grouped) form.attributes.slots = 7;
        judge_route(form, coarse_logits(tokens, experts));
      }
    }
  }
}

TEST_CASE("cpu route: limited to the best runs of experts") {
  for (const bool bias : {false, true}) {
    for (const auto &[groups, kept] : {std::pair{8, 4}, {4, 1}, {64, 12}}) {
      Form form{40, 64, plain_route(64, 6, MOE_SIGMOID), bias};
      form.attributes.expert_groups = groups;
      form.attributes.kept_groups = kept;
      judge_route(form, coarse_logits(40, 64));
    }
  }
}

TEST_CASE("cpu route: groups of experts, coalesced or not, some without a slot") {
  for (const int32_t coalesce : {0, 1}) {
    for (const int32_t slots : {1, 5, 40}) {
      Form form{50, 60, plain_route(60, 8), false, false, false, true};
      form.attributes.coalesce = coalesce;
      form.attributes.slots = slots;
      judge_route(form, coarse_logits(50, 60));
    }
  }
}

TEST_CASE("cpu route: given ids, with gates or from the logits, out of range and repeated") {
  for (const bool gates : {false, true}) {
    for (const bool grouped : {false, true}) {
      for (const int32_t coalesce : {0, 1}) {
        Form form{30, 17, plain_route(17, 5), false, true, gates, grouped};
        form.attributes.coalesce = coalesce;
        if (grouped) form.attributes.slots = 4;
        judge_route(form, coarse_logits(30, 17));
      }
    }
  }
}

TEST_CASE("cpu route: NaN and infinite logits give distinct ids in range") {
  Array logits = random_array(MOE_F32, {6, 20}, 1);
  for (int64_t i = 0; i < 20; ++i) {
    logits.set(i, NAN);
    logits.set(20 + i, HUGE_VAL);
    logits.set(40 + i, -HUGE_VAL);
    if (i % 3 == 0) logits.set(60 + i, NAN);
    if (i % 4 == 0) logits.set(80 + i, HUGE_VAL);
  }
  for (const int32_t score : {MOE_SOFTMAX, MOE_SIGMOID, MOE_IDENTITY, MOE_RELU_NORM, MOE_RELU_SCORE}) {
    for (const int32_t choice : {MOE_CHOICE_TOP_K, MOE_CHOICE_NON_ZERO, MOE_CHOICE_EXPERT}) {
      Form form{6, 20, plain_route(20, 4, score)};
      form.attributes.choice = choice;
      form.attributes.capacity = choice == MOE_CHOICE_EXPERT ? 2 : 0;
      form.attributes.renormalize = score != MOE_IDENTITY && score != MOE_RELU_SCORE;
      judge_route(form, logits);
    }
  }
}

TEST_CASE("cpu route large enough for two threads") {
  judge_route({512, 128, plain_route(128, 8)}, coarse_logits(512, 128));
}

}  // namespace
}  // namespace moe::test
