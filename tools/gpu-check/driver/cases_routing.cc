// route, combine, and statistics over their rows.
#include <algorithm>

#include "check_case.h"

namespace moe::gpu_check {

using test::Array;
using test::Shape;
using test::symbol;

namespace {

// Of each expert, its slot; now and then none.
Array random_groups(Random &random, int64_t experts, int64_t slots) {
  Array groups = random.integers({experts}, 0, slots - 1);
  if (random.chance(20)) groups.set(random.between(0, experts - 1), random.pick({-1.0, static_cast<double>(slots)}));
  return groups;
}

struct Routing {
  int ids, gates, row_of, token_of, gate_of, offsets;
  std::vector<int> all() const { return {ids, gates, row_of, token_of, gate_of, offsets}; }
};
template <typename Add>
Routing add_routing(int64_t top, int64_t slots, const Add &add) {
  const Shape choices{symbol(0), top}, rows{symbol(0, top)};
  return {add(MOE_I32, choices), add(MOE_F32, choices), add(MOE_I32, choices),
          add(MOE_I32, rows),    add(MOE_F32, rows),    add(MOE_I32, Shape{slots + 1})};
}

// A routing of random ids that other nodes of the graph read; `offsets` is an output too.
Routing given_routing(CheckCase &made, Random &random, int64_t tokens, int64_t top, int64_t experts) {
  test::Case &graph = made.graph;
  Routing routing =
      add_routing(top, experts, [&](int32_t dtype, const Shape &shape) { return graph.inner(dtype, shape); });
  routing.offsets = graph.output(MOE_I32, {experts + 1});
  const int ids = graph.input(random.integers({tokens, top}, -1, experts - 1), {symbol(0), top});
  const int gates = graph.input(random.normals(MOE_F32, {tokens, top}), {symbol(0), top});
  const auto count = static_cast<int32_t>(experts);
  graph.node(MOE_ROUTE, moe_route{MOE_SOFTMAX, static_cast<int32_t>(top), 0, 0, count, count, 1, 1, 1.0F, 0, 0, 0},
             {-1, -1, -1, ids, gates}, routing.all());
  return routing;
}

}  // namespace

CheckCase route_case(Random &random) {
  CheckCase made{"route", Bound::transcendental};
  test::Case &graph = made.graph;
  const int64_t tokens = add_tokens(made, random, random.pick<int64_t>({12, 80})),
                experts = random.pick<int64_t>({1, random.between(2, 20), 60, 64, 128, 256, 257});
  moe_route route{};
  route.score = random.pick({MOE_SOFTMAX, MOE_SOFTMAX, MOE_SIGMOID, MOE_IDENTITY, MOE_RELU_NORM, MOE_RELU_SCORE});
  route.renormalize = random.chance() ? 1 : 0;
  route.coalesce = random.chance() ? 1 : 0;
  route.experts = static_cast<int32_t>(experts);
  route.expert_groups = route.kept_groups = 1;
  route.scale = random.pick({1.0F, 2.5F});
  route.epsilon = 1e-6F;
  const bool given = random.chance(20);
  if (!given) route.choice = random.pick({MOE_CHOICE_TOP_K, MOE_CHOICE_TOP_K, MOE_CHOICE_NON_ZERO, MOE_CHOICE_EXPERT});
  if (!given && route.choice == MOE_CHOICE_TOP_K && experts % 4 == 0 && random.chance(30))
    route.expert_groups = 4, route.kept_groups = static_cast<int32_t>(random.between(1, 4));
  route.top_k =
      static_cast<int32_t>(random.between(1, std::min<int64_t>(10, experts / route.expert_groups * route.kept_groups)));
  if (route.choice == MOE_CHOICE_EXPERT || random.chance(25))
    route.capacity = static_cast<int32_t>(random.between(1, std::max<int64_t>(1, tokens)));
  const bool grouped = random.chance(40);
  const int64_t slots = grouped ? random.between(1, experts) : experts;
  route.slots = static_cast<int32_t>(slots);

  const bool with_logits = !given || random.chance();
  const int32_t dtype = random.float_dtype();
  const int logits = with_logits ? graph.input(random.normals(dtype, {tokens, experts}, 2), {symbol(0), experts}) : -1;
  const bool biased = !given && route.choice != MOE_CHOICE_EXPERT && random.chance(30);
  const int bias = biased ? graph.constant(random.normals(random.float_dtype(), {experts}, 0.2)) : -1;
  const int group_of = grouped ? graph.constant(random_groups(random, experts, slots)) : -1;
  const int64_t top = route.top_k;
  const int ids = given ? graph.input(random.integers({tokens, top}, -1, experts), {symbol(0), top}) : -1;
  const int gates =
      given && !with_logits ? graph.input(random.normals(random.float_dtype(), {tokens, top}), {symbol(0), top}) : -1;
  const Routing routing =
      add_routing(top, slots, [&](int32_t of, const Shape &shape) { return graph.output(of, shape); });
  for (const int rows : {routing.token_of, routing.gate_of}) made.rows_below[rows] = routing.offsets;
  graph.node(MOE_ROUTE, route, {logits, bias, group_of, ids, gates}, routing.all());
  made.name += " score " + std::to_string(route.score) + " choice " + std::to_string(route.choice) + ", " +
               std::to_string(top) + " of " + std::to_string(experts) + (given ? ", given" : "") +
               (grouped ? ", " + std::to_string(slots) + " slots" : "");
  return made;
}

CheckCase combine_case(Random &random) {
  const int64_t top = random.between(1, 8), width = any_width(random, 1024), experts = random.between(1, 20);
  CheckCase made{"combine", Bound::sum, top + 2};
  test::Case &graph = made.graph;
  const int64_t tokens = add_tokens(made, random, 40);
  const Routing routing = given_routing(made, random, tokens, top, experts);
  const int32_t dtype = random.float_dtype(), y = random.float_dtype();
  const int rows = graph.input(random.normals(dtype, {tokens * top, width}), {symbol(0, top), width});
  const auto flow = [&](bool there, int64_t columns) {
    return there ? graph.input(random.normals(random.float_dtype(), {tokens, columns}), {symbol(0), columns}) : -1;
  };
  const bool shared = random.chance(), gated = shared && random.chance();
  if (gated) made.bound = Bound::transcendental;
  const int shared_rows = flow(shared, width), shared_gate = flow(gated, 1), residual = flow(random.chance(), width);
  graph.node(MOE_COMBINE, moe_combine{y}, {rows, routing.row_of, routing.gate_of, shared_rows, shared_gate, residual},
             {graph.output(y, {symbol(0), width})});
  return made;
}

CheckCase accumulate_case(Random &random) {
  const int32_t statistic = random.pick({MOE_COUNT, MOE_SUM, MOE_NORM_SUM, MOE_GRAM, MOE_GRAM});
  const int64_t width = random.between(1, 70), other = random.between(1, 40);
  CheckCase made{"accumulate " + std::to_string(statistic), Bound::sum, 40};
  test::Case &graph = made.graph;
  const int64_t tokens = add_tokens(made, random, 40);
  if (statistic == MOE_COUNT) {
    made.bound = Bound::exact;
    graph.node(MOE_ACCUMULATE, moe_accumulate{statistic, 0},
               {graph.input(random.integers({tokens, 3}, -1, width + 2), {symbol(0), 3}), -1, -1, -1,
                graph.state(test::filled(MOE_F64, {width}, 3))},
               {});
    return made;
  }
  const bool grouped = random.chance(), second = statistic == MOE_GRAM && random.chance();
  const int64_t top = grouped ? random.between(1, 3) : 1, slots = 5;
  Routing routing{-1, -1, -1, -1, -1, -1};
  if (grouped) routing = given_routing(made, random, tokens, top, slots);
  const auto rows = [&](int64_t columns) {
    return graph.input(random.normals(random.float_dtype(), {tokens * top, columns}), {symbol(0, top), columns});
  };
  const int a = rows(width), b = second ? rows(other) : -1;
  Shape state;
  if (grouped) state.push_back(slots);
  if (statistic == MOE_NORM_SUM && !grouped) state.push_back(1);
  if (statistic != MOE_NORM_SUM) state.push_back(width);
  if (statistic == MOE_GRAM) state.push_back(second ? other : width);
  const auto power = static_cast<int32_t>(random.between(0, 2));
  graph.node(MOE_ACCUMULATE, moe_accumulate{statistic, grouped ? power : 0},
             {a, b, routing.offsets, routing.gate_of, graph.state(random.normals(MOE_F64, state))}, {});
  return made;
}

}  // namespace moe::gpu_check
