// Route, combine and attention on the reference: by hand, and the properties that every device must keep.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>

#include "backend_harness.h"

extern "C" const moe_backend *moe_backend_reference(void);

namespace {

using namespace moe::test;

const double not_a_number = std::numeric_limits<double>::quiet_NaN(),
             infinity = std::numeric_limits<double>::infinity();

std::vector<Array> reference(const Case &graph) { return run(moe_backend_reference(), graph, "foreign=1"); }

struct Routing {
  int ids, gates, row_of, token_of, gate_of, offsets;
};

// Adds a route whose outputs can be read; inputs as in operations.h.
Routing add_route(Case &graph, const moe_route &attributes, int64_t tokens, std::vector<int> inputs) {
  const int64_t k = attributes.top_k;
  const Routing routing{graph.output(MOE_I32, {tokens, k}),      graph.output(MOE_F32, {tokens, k}),
                        graph.output(MOE_I32, {tokens, k}),      graph.output(MOE_I32, {tokens * k}, -9),
                        graph.output(MOE_F32, {tokens * k}, -9), graph.output(MOE_I32, {attributes.slots + 1})};
  graph.node(MOE_ROUTE, attributes, std::move(inputs),
             {routing.ids, routing.gates, routing.row_of, routing.token_of, routing.gate_of, routing.offsets});
  return routing;
}

moe_route plain_route(int32_t score, int32_t top_k, int32_t experts, int32_t renormalize = 0) {
  return {score, top_k, renormalize, 0, experts, experts, 1, 1, 1};
}

}  // namespace

TEST_CASE("reference route: choice, gates and layout by hand") {
  Case graph;
  const int logits = graph.input(f32({2, 3}, {0, std::log(2), std::log(5), 3, 3, 3}));
  const Routing routing = add_route(graph, plain_route(MOE_SOFTMAX, 2, 3, 1), 2, {logits});
  const auto results = reference(graph);
  CHECK(results[routing.ids].values() == std::vector<double>{2, 1, 0, 1});
  CHECK(difference(results[routing.gates], {5.0 / 7, 2.0 / 7, 0.5, 0.5}) < 1e-7);
  CHECK(results[routing.offsets].values() == std::vector<double>{0, 1, 3, 4});
  CHECK(results[routing.token_of].values() == std::vector<double>{1, 0, 1, 0});
  CHECK(results[routing.row_of].values() == std::vector<double>{3, 1, 0, 2});
  CHECK(difference(results[routing.gate_of], {0.5, 2.0 / 7, 0.5, 5.0 / 7}) < 1e-7);
}

TEST_CASE("reference route: a ReLU router takes what is above zero") {
  Case graph;
  const int logits = graph.input(f32({3, 4}, {3, 0, 4, -1, -2, -0.0, not_a_number, -infinity, 1, 1, 1, 1}));
  moe_route attributes = plain_route(MOE_RELU_NORM, 3, 4);
  attributes.choice = MOE_CHOICE_NON_ZERO;
  const Routing normed = add_route(graph, attributes, 3, {logits});
  attributes.score = MOE_RELU_SCORE, attributes.renormalize = 1;
  const Routing plain = add_route(graph, attributes, 3, {logits});
  attributes.score = MOE_IDENTITY, attributes.renormalize = 0;
  const int bias = graph.constant(f32({4}, {2, 9, 0, 9}));
  const Routing biased = add_route(graph, attributes, 3, {logits, bias});
  const auto results = reference(graph);
  // A mean square of 25 / 4; nothing above zero: 0, not 0 / 0; at most top_k.
  CHECK(results[normed.ids].values() == std::vector<double>{2, 0, -1, -1, -1, -1, 0, 1, 2});
  CHECK(difference(results[normed.gates], {1.6, 1.2, 0, 0, 0, 0, 1, 1, 1}) < 1e-7);
  CHECK(results[normed.offsets].values() == std::vector<double>{0, 2, 3, 5, 5});
  CHECK(results[normed.row_of].values() == std::vector<double>{3, 0, -1, -1, -1, -1, 1, 2, 4});
  CHECK(difference(results[plain.gates], {4.0 / 7, 3.0 / 7, 0, 0, 0, 0, 1.0 / 3, 1.0 / 3, 1.0 / 3}) < 1e-7);
  CHECK(results[biased.ids].values() == std::vector<double>{0, 2, -1, -1, -1, -1, 1, 3, 0});
  CHECK(results[biased.gates].values() == std::vector<double>{3, 4, 0, 0, 0, 0, 1, 1, 1});
}

TEST_CASE("reference route: epsilon keeps small scores small") {
  Case graph;
  const int logits = graph.input(f32({1, 2}, {3, -1}));
  moe_route attributes = plain_route(MOE_RELU_NORM, 2, 2);
  attributes.epsilon = 4.5f;
  const Routing routing = add_route(graph, attributes, 1, {logits});
  const auto results = reference(graph);
  CHECK(results[routing.ids].values() == std::vector<double>{0, 1});
  CHECK(results[routing.gates].values() == std::vector<double>{1, 0});
}

TEST_CASE("reference route: an expert takes tokens in order, up to its capacity") {
  Case graph;
  const int logits = graph.input(f32({4, 3}, {3, 1, 0, 3, 1, 0, 0, 1, 3, 3, 1, 0}));
  moe_route attributes = plain_route(MOE_IDENTITY, 2, 3, 1);
  attributes.capacity = 2;
  const Routing routing = add_route(graph, attributes, 4, {logits});
  // Experts 0 and 1 share a slot, but not a capacity; the id that is out of range and the one without a slot count.
  const int group_of = graph.constant(i32({3}, {0, 0, -1})), ids = graph.input(i32({4, 2}, {0, 1, 7, 2, 2, 0, 2, 0})),
            gates = graph.input(f32({4, 2}, {1, 2, 4, 8, 16, 32, 64, 128}));
  attributes.renormalize = 0, attributes.slots = 1, attributes.coalesce = 1;
  const Routing given = add_route(graph, attributes, 4, {-1, -1, group_of, ids, gates});
  const auto results = reference(graph);
  CHECK(results[routing.ids].values() == std::vector<double>{0, 1, 0, 1, 2, -1, -1, -1});
  CHECK(results[routing.gates].values() == std::vector<double>{0.75, 0.25, 0.75, 0.25, 0.75, 0, 0, 0});
  CHECK(results[routing.row_of].values() == std::vector<double>{0, 2, 1, 3, 4, -1, -1, -1});
  CHECK(results[routing.offsets].values() == std::vector<double>{0, 2, 4, 5});
  CHECK(results[given.ids].values() == std::vector<double>{0, 1, -1, 2, 2, 0, -1, -1});
  CHECK(results[given.gates].values() == std::vector<double>{1, 2, 0, 8, 16, 32, 0, 0});
  CHECK(results[given.row_of].values() == std::vector<double>{0, 0, -1, -1, -1, 1, -1, -1});
  CHECK(results[given.gate_of].at(0) == 3);
}

TEST_CASE("reference route: experts choose tokens") {
  Case graph;
  const int logits = graph.input(f32({4, 3}, {5, 1, 2, 5, 2, not_a_number, 5, 3, 4, 0, 0, 3}));
  moe_route attributes = plain_route(MOE_IDENTITY, 2, 3);
  attributes.choice = MOE_CHOICE_EXPERT, attributes.capacity = 2;
  const Routing routing = add_route(graph, attributes, 4, {logits});
  attributes.capacity = 9, attributes.renormalize = 1, attributes.top_k = 3;
  const Routing all = add_route(graph, attributes, 4, {graph.input(f32({4, 3}, {1, 1, 2, 0, 0, 0, 1, 0, 0, 3, 0, 1}))});
  const auto results = reference(graph);
  // Expert 0 takes tokens 0 and 1 (a tie), 1 takes 2 and 1, 2 takes 2 and 3.
  CHECK(results[routing.ids].values() == std::vector<double>{0, -1, 0, 1, 1, 2, 2, -1});
  CHECK(results[routing.gates].values() == std::vector<double>{5, 0, 5, 2, 3, 4, 3, 0});
  CHECK(results[routing.token_of].values() == std::vector<double>{0, 1, 1, 2, 2, 3, -9, -9});
  CHECK(results[all.ids].values() == std::vector<double>{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2});
  CHECK(results[all.gates].values() == std::vector<double>{0.25, 0.25, 0.5, 0, 0, 0, 1, 0, 0, 0.75, 0, 0.25});
}

TEST_CASE("reference route: a token that too many experts take keeps the first of them") {
  Case graph;
  const int logits = graph.input(f32({2, 3}, {1, 1, 1, 0, 0, 0}));
  moe_route attributes = plain_route(MOE_IDENTITY, 2, 3);
  attributes.choice = MOE_CHOICE_EXPERT, attributes.capacity = 1;
  const Routing routing = add_route(graph, attributes, 2, {logits});
  const auto results = reference(graph);
  CHECK(results[routing.ids].values() == std::vector<double>{0, 1, -1, -1});
  CHECK(results[routing.offsets].values() == std::vector<double>{0, 1, 2, 2});
}

TEST_CASE("reference route: bias chooses but does not weigh; group limits") {
  Case graph;
  const int logits = graph.input(f32({1, 6}, {1, 5, 2, 3, 0, 4})), bias = graph.constant(f32({6}, {10, 0, 0, 0, 0, 0}));
  const Routing biased = add_route(graph, plain_route(MOE_IDENTITY, 2, 6), 1, {logits, bias});
  // Runs {1, 5}, {2, 3}, {0, 4}: best 5, 3, 4; with the bias best two 16, 5, 4.
  const Routing limited = add_route(graph, {MOE_IDENTITY, 3, 0, 0, 6, 6, 3, 2, 2}, 1, {logits});
  const Routing both = add_route(graph, {MOE_IDENTITY, 3, 0, 0, 6, 6, 3, 2, 1}, 1, {logits, bias});
  const auto results = reference(graph);
  CHECK(results[biased.ids].values() == std::vector<double>{0, 1});
  CHECK(results[biased.gates].values() == std::vector<double>{1, 5});
  CHECK(results[limited.ids].values() == std::vector<double>{1, 5, 0});
  CHECK(results[limited.gates].values() == std::vector<double>{10, 8, 2});
  CHECK(results[both.ids].values() == std::vector<double>{0, 1, 3});
}

TEST_CASE("reference route: ids are distinct and in range whatever the logits are") {
  const double specials[] = {not_a_number, infinity, -infinity, 3.4e38, -3.4e38, 0};
  Array logits = random_array(MOE_F32, {64, 8}, 11);
  const Array pick = random_integers({64, 8}, 12, 0, 11);
  for (int64_t i = 0; i < logits.size(); ++i) {
    if (pick.at(i) < 6) logits.set(i, specials[static_cast<size_t>(pick.at(i))]);
    if (i < 8) logits.set(i, not_a_number);
  }
  for (const int32_t score : {MOE_SOFTMAX, MOE_SIGMOID, MOE_IDENTITY, MOE_RELU_NORM, MOE_RELU_SCORE}) {
    for (const bool limited : {false, true}) {
      Case graph;
      const int x = graph.input(logits),
                bias = graph.constant(f32({8}, {0, infinity, not_a_number, -infinity, 1, 0, -1, 3e38}));
      moe_route attributes = plain_route(score, 4, 8, 1);
      if (limited) attributes.expert_groups = 4, attributes.kept_groups = 2;
      const Routing routing = add_route(graph, attributes, 64, {x, limited ? bias : -1});
      const auto results = reference(graph);
      for (int64_t t = 0; t < 64; ++t) {
        std::set<double> seen;
        for (int64_t j = 0; j < 4; ++j) {
          const double id = results[routing.ids].at(t * 4 + j);
          CHECK((id >= 0 && id < 8 && seen.insert(id).second));
          if (score != MOE_IDENTITY && score != MOE_RELU_SCORE)
            CHECK(std::isfinite(results[routing.gates].at(t * 4 + j)));
        }
      }
      CHECK(results[routing.offsets].at(8) == 64 * 4);
      if (!limited) CHECK(results[routing.ids].at(0) == 0);  // a token of NaN only: ties to the lower index
    }
  }
}

TEST_CASE("reference route: given ids, foreign ids, groups, coalesced rows") {
  const std::vector<double> groups{1, 0, 1, 5};
  Case graph;
  const int ids = graph.input(i32({2, 3}, {2, 0, 3, 1, -4, 4})), gates = graph.input(f32({2, 3}, {1, 2, 4, 8, 16, 32}));
  const int group_of = graph.constant(i32({4}, groups)), logits = graph.input(f32({2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}));
  moe_route attributes{MOE_IDENTITY, 3, 0, 1, 4, 2, 1, 1, 1};
  const Routing routing = add_route(graph, attributes, 2, {-1, -1, group_of, ids, gates});
  attributes.coalesce = 0;
  const Routing apart = add_route(graph, attributes, 2, {logits, -1, group_of, ids});
  const auto results = reference(graph);
  CHECK(results[routing.ids].values() == std::vector<double>{2, 0, 3, 1, -1, -1});
  CHECK(results[routing.gates].values() == std::vector<double>{1, 2, 4, 8, 0, 0});
  CHECK(results[routing.offsets].values() == std::vector<double>{0, 1, 2});
  CHECK(results[routing.row_of].values() == std::vector<double>{1, 1, -1, 0, -1, -1});
  CHECK(results[routing.gate_of].at(1) == 3);
  CHECK(results[routing.token_of].at(0) == 1);
  CHECK(results[apart.gates].values() == std::vector<double>{3, 1, 4, 6, 0, 0});
  CHECK(results[apart.offsets].values() == std::vector<double>{0, 1, 3});
  CHECK(results[apart.row_of].values() == std::vector<double>{2, 1, -1, 0, -1, -1});
}

TEST_CASE("reference: coalesced experts equal duplicates executed, and a regrouped bank between") {
  const int64_t tokens = 10, width = 6, hidden = 4;
  Array groups = i32({6}, {0, 1, 0, 2, 1, 0});
  std::vector<Array> sums;
  for (const int coalesce : {0, 1}) {
    Case graph;
    const int x = graph.input(random_array(MOE_F32, {tokens, width}, 21)),
              logits = graph.input(random_array(MOE_F32, {tokens, 6}, 22));
    const int group_of = graph.constant(groups), residual = graph.input(random_array(MOE_F32, {tokens, width}, 23));
    const int shared_gate = graph.input(filled(MOE_F32, {tokens, 1}, 0));
    const int up = graph.weight(random_bank({width, 2 * hidden, 3, true, float_part(MOE_F32)}, 24)),
              down = graph.weight(random_bank({hidden, width, 3, false, float_part(MOE_F32)}, 25));
    const Routing routing =
        add_route(graph, {MOE_SOFTMAX, 3, 1, coalesce, 6, 3, 1, 1, 1}, tokens, {logits, -1, group_of});
    const int inner = graph.inner(MOE_F32, {tokens * 3, hidden}), rows = graph.inner(MOE_F32, {tokens * 3, width}),
              y = graph.output(MOE_F32, {tokens, width});
    graph.node(MOE_LINEAR, moe_linear{MOE_SWIGLU, MOE_AUTO, MOE_F32}, {x, up, routing.token_of, routing.offsets},
               {inner});
    graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_AUTO, MOE_F32}, {inner, down, -1, routing.offsets}, {rows});
    graph.node(MOE_COMBINE, moe_combine{MOE_F32}, {rows, routing.row_of, routing.gate_of, x, shared_gate, residual},
               {y});
    const auto results = reference(graph);
    CHECK(results[routing.offsets].at(3) <= (coalesce ? tokens * 3 - 1 : tokens * 3));
    sums.push_back(results[y]);
  }
  CHECK(difference(sums[0], sums[1]) < 1e-6);
}

TEST_CASE("reference combine: by hand, and onto the rows of a second routing") {
  Case graph;
  const int rows = graph.input(f32({4, 1}, {1, 10, 100, not_a_number})),
            row_of = graph.input(i32({2, 2}, {1, 1, 2, -1}));
  const int gate_of = graph.input(f32({4}, {1, 2, 3, 4})), shared = graph.input(f32({2, 1}, {4, 6})),
            shared_gate = graph.input(f32({2, 1}, {0, 0}));
  const int residual = graph.input(f32({2, 1}, {1000, 2000})), y = graph.output(MOE_F32, {2, 1});
  const int onto = graph.input(i32({2, 2}, {3, 3, 0, -1})), q = graph.output(MOE_F32, {4, 1}, 5);
  graph.node(MOE_COMBINE, moe_combine{MOE_F32}, {rows, row_of, gate_of, shared, shared_gate, residual}, {y});
  graph.node(MOE_COMBINE, moe_combine{MOE_F32}, {rows, row_of, gate_of, -1, -1, -1, onto}, {q});
  const auto results = reference(graph);
  CHECK(results[y].values() == std::vector<double>{1022, 2303});
  CHECK(results[q].values() == std::vector<double>{300, 5, 5, 20});
}

TEST_CASE("reference attention: by hand, causal, window, cap, nothing visible") {
  const auto attend = [](moe_attention attributes, double length) {
    Case graph;
    const int q = graph.input(f32({2, 1}, {1, 1})), k = graph.input(f32({2, 1}, {0, std::log(3)})),
              v = graph.input(f32({2, 1}, {8, 16}));
    const int positions = graph.input(i32({2}, {0, 1})), sequence = graph.input(i32({2}, {0, 0})),
              lengths = graph.input(i32({1}, {length}));
    const int pages = graph.input(i32({2}, {1, 0}));
    const int k_cache = graph.state(filled(MOE_F32, {2, 1, 1})), v_cache = graph.state(filled(MOE_F32, {2, 1, 1}));
    const int y = graph.output(MOE_F32, {2, 1}, 5);
    graph.node(MOE_ATTENTION, attributes, {q, k, v, positions, sequence, lengths, pages, k_cache, v_cache}, {y});
    const auto results = reference(graph);
    CHECK(results[v_cache].values() == std::vector<double>{16, 8});
    return results[y].values();
  };
  CHECK(difference(attend({1, 1, 1, 0, 1, 0}, 2), {8, 14}) < 1e-6);
  CHECK(difference(attend({1, 1, 0, 0, 1, 0}, 2), {14, 14}) < 1e-6);
  CHECK(difference(attend({1, 1, 1, 1, 1, 0}, 2), {8, 16}) < 1e-6);
  CHECK(difference(attend({1, 1, 1, 0, 1, 0}, 0), {0, 0}) < 1e-6);
  CHECK(difference(attend({1, 1, 0, 0, 1, 0}, 1e6), {14, 14}) < 1e-6);
  const double capped = std::exp(0.5 * std::tanh(std::log(3) / 0.5));
  CHECK(difference(attend({1, 1, 0, 0, 1, 0.5}, 2), std::vector<double>(2, (8 + 16 * capped) / (1 + capped))) < 1e-6);
}

TEST_CASE("reference attention: paged and ragged equals contiguous attention in plain loops") {
  const int64_t heads = 4, kv_heads = 2, size = 3, lengths[] = {5, 1, 7}, page_size = 3;
  std::vector<double> sequence, positions;
  for (int64_t s = 0; s < 3; ++s) {
    for (int64_t p = 0; p < lengths[s]; ++p)
      sequence.push_back(static_cast<double>(s)), positions.push_back(static_cast<double>(p));
  }
  const auto tokens = static_cast<int64_t>(sequence.size());
  const Array q = random_array(MOE_F32, {tokens, heads * size}, 31),
              k = random_array(MOE_F32, {tokens, kv_heads * size}, 32),
              v = random_array(MOE_F32, {tokens, kv_heads * size}, 33);
  Case graph;
  const std::vector<int> inputs{graph.input(q),
                                graph.input(k),
                                graph.input(v),
                                graph.input(i32({tokens}, positions)),
                                graph.input(i32({tokens}, sequence)),
                                graph.input(i32({3}, {5, 1, 7})),
                                graph.input(i32({9}, {8, 2, -1, 0, 99, 99, 7, 1, 4})),
                                graph.state(filled(MOE_F32, {9, page_size, kv_heads * size}, not_a_number)),
                                graph.state(filled(MOE_F32, {9, page_size, kv_heads * size}, not_a_number))};
  const int y = graph.output(MOE_F32, {tokens, heads * size});
  graph.node(MOE_ATTENTION, moe_attention{4, 2, 1, 4, 0.5, 0}, inputs, {y});
  const Array result = reference(graph)[y];
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<double> sum(static_cast<size_t>(size));
      double total = 0;
      for (int64_t j = 0; j < tokens; ++j) {
        const auto a = static_cast<size_t>(t), b = static_cast<size_t>(j);
        if (sequence[a] != sequence[b] || positions[b] > positions[a] || positions[a] - positions[b] >= 4) continue;
        double score = 0;
        for (int64_t i = 0; i < size; ++i)
          score += q.at((t * heads + h) * size + i) * k.at((j * kv_heads + h / 2) * size + i);
        const double weight = std::exp(score * 0.5);
        total += weight;
        for (int64_t i = 0; i < size; ++i)
          sum[static_cast<size_t>(i)] += weight * v.at((j * kv_heads + h / 2) * size + i);
      }
      for (int64_t i = 0; i < size; ++i)
        CHECK(result.at((t * heads + h) * size + i) ==
              doctest::Approx(sum[static_cast<size_t>(i)] / total).epsilon(1e-5));
    }
  }
}

TEST_CASE("reference attention: positions, sequences, lengths and pages out of range never fault") {
  Case graph;
  const int64_t tokens = 8;
  const Array wild = i32({8}, {-2147483648.0, -1, 0, 1, 2, 5, 2147483647, 100});
  const int q = graph.input(random_array(MOE_F32, {tokens, 2}, 1)), positions = graph.input(wild),
            sequence = graph.input(i32({8}, {0, 1, -1, 7, 1, 0, 1, 2147483647}));
  const int lengths = graph.input(i32({2}, {-5, 2147483647})),
            pages = graph.input(i32({4}, {-1, 99, 1, -2147483648.0}));
  const int k_cache = graph.state(filled(MOE_F16, {2, 2, 2})), v_cache = graph.state(filled(MOE_F16, {2, 2, 2})),
            y = graph.output(MOE_F32, {tokens, 2});
  for (const int causal : {0, 1})
    graph.node(MOE_ATTENTION, moe_attention{1, 1, causal, 3, 1, 0},
               {q, q, q, positions, sequence, lengths, pages, k_cache, v_cache}, {y});
  for (const double value : reference(graph)[y].values()) CHECK(std::isfinite(value));
}
