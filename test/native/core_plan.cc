#include <algorithm>
#include <random>

#include "core/plan.h"
#include "core_check.h"

namespace {

using moe::Block;
using moe::Dimension;

const Dimension tokens{1, "tokens"};

void no_scratch(const moe_graph &, int64_t *) {}

struct Bench {
  moe::Graph graph;
  int32_t input(std::string_view name, std::vector<Dimension> shape = {tokens, {8}}) {
    return graph.add_input(name, graph.make_type(name, "f32", shape));
  }
  int32_t map(int32_t a, int32_t b = -1) {
    return graph.add_node("map", std::vector<int32_t>{a, b}, {{"function", std::string(b < 0 ? "relu" : "add")}})[0];
  }
  moe::Plan plan(int64_t most = 16, const moe::ScratchOf &scratch = no_scratch) {
    return {graph, {{"tokens", most}}, scratch};
  }
};

int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

bool overlap(const Block &a, const Block &b) {
  const bool in_time = a.first <= b.last && b.first <= a.last;
  const bool in_place = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
  return in_time && in_place;
}

}  // namespace

TEST_CASE("property: no two blocks alive at once overlap, and the arena is no larger than it need be by much") {
  std::mt19937 random(21);
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<Block> blocks(1 + random() % 60);
    std::vector<int64_t> alive(64);
    int64_t sum = 0;
    for (Block &block : blocks) {
      block.bytes = random() % 5 == 0 ? 0 : static_cast<int64_t>(random() % 5000);
      block.first = static_cast<int32_t>(random() % 50);
      block.last = block.first + static_cast<int32_t>(random() % (repeat % 2 ? 4 : 14));
      for (int32_t i = block.first; i <= block.last; ++i) alive[static_cast<size_t>(i)] += padded(block.bytes);
      sum += padded(block.bytes);
    }
    const int64_t arena = moe::place_blocks(blocks);
    const int64_t least = *std::max_element(alive.begin(), alive.end());
    int clashes = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
      CHECK(blocks[i].offset % 64 == 0);
      CHECK(blocks[i].offset + blocks[i].bytes <= arena);
      for (size_t j = 0; j < i; ++j) clashes += overlap(blocks[i], blocks[j]);
    }
    CHECK(clashes == 0);
    CHECK(arena >= least);
    CHECK(arena <= std::min(sum, least * 3 / 2 + 64));
  }
}

TEST_CASE("property: in planned random graphs no value or scratch that is needed at a node overlaps another") {
  std::mt19937 random(22);
  for (int repeat = 0; repeat < 100; ++repeat) {
    Bench bench;
    std::vector<int32_t> values{bench.input("x")};
    for (int i = 0; i < 40; ++i) {
      const int32_t a = values[random() % values.size()], b = values[random() % values.size()];
      values.push_back(bench.map(a, random() % 2 ? b : -1));
    }
    bench.graph.add_output("y", values.back());
    if (values[20] != values.back()) bench.graph.add_output("z", values[20]);
    std::vector<int64_t> scratch;
    const moe::Plan plan = bench.plan(16, [&](const moe_graph &graph, int64_t *bytes) {
      for (int32_t i = 0; i < graph.node_count; ++i) scratch.push_back(bytes[i] = static_cast<int64_t>(random() % 300));
    });
    const moe_graph graph = plan.view();
    const int64_t value_bytes = 16 * 8 * 4;
    // Who writes what where, node by node: reading must find the bytes that the producer left.
    std::vector<int32_t> owner(static_cast<size_t>(plan.arena_bytes()), -1);
    const auto fill = [&](int64_t offset, int64_t bytes, int32_t who) {
      REQUIRE(offset >= 0);
      REQUIRE(offset + bytes <= plan.arena_bytes());
      std::fill_n(owner.begin() + offset, bytes, who);
    };
    int wrong = 0;
    for (int32_t i = 0; i < graph.node_count; ++i) {
      const moe_node &node = graph.nodes[i];
      const auto written = {node.output[0]}, used = {node.input[0], node.input[1], node.output[0]};
      for (const int32_t value : written)
        if (graph.values[value].role == MOE_ROLE_INNER) fill(graph.values[value].arena_offset, value_bytes, value);
      fill(node.scratch_offset, scratch[static_cast<size_t>(i)], -2);
      for (const int32_t value : used) {
        if (value < 0 || graph.values[value].role != MOE_ROLE_INNER) continue;
        const auto start = owner.begin() + graph.values[value].arena_offset;
        wrong += std::count(start, start + value_bytes, value) != value_bytes;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("dead nodes go, values are renumbered, bindings keep their order") {
  Bench bench;
  const int32_t unused = bench.input("unused"), x = bench.input("x");
  bench.map(bench.map(unused));
  const int32_t y = bench.map(x);
  const int32_t z = bench.map(y);
  bench.graph.add_output("z", z);
  bench.graph.add_output("y", y);
  const moe::Plan plan = bench.plan();
  REQUIRE(plan.node_count() == 2);
  CHECK(plan.operation_name(0) == "map");
  std::string names;
  for (const auto &binding : plan.bindings()) names += binding.name + " ";
  CHECK(names == "unused x z y ");
  CHECK(plan.arena_bytes() == 0);
  const moe_graph graph = plan.view();
  CHECK(graph.value_count == 4);
  CHECK(graph.values[graph.nodes[0].output[0]].role == MOE_ROLE_OUTPUT);
  CHECK(graph.values[graph.nodes[0].output[0]].binding == 3);
  CHECK(graph.nodes[1].input[0] == graph.nodes[0].output[0]);
  CHECK(graph.nodes[1].input[1] == -1);
  CHECK(graph.values[graph.nodes[1].output[0]].binding == 2);
}

TEST_CASE("outputs that nobody reads become -1, state writers stay, in program order") {
  Bench bench;
  const int32_t x = bench.input("x");
  const int32_t state =
      bench.graph.add_state("state", bench.graph.make_type("state", "f64", std::vector<Dimension>{{8}}));
  const moe::AttributeList sum{{"statistic", std::string("sum")}};
  bench.graph.add_node("accumulate", std::vector<int32_t>{bench.map(x), -1, -1, -1, state}, sum);
  const auto norm = bench.graph.add_node("norm", std::vector<int32_t>{x, -1, -1, x}, {});
  bench.graph.add_node("accumulate", std::vector<int32_t>{norm[1], -1, -1, -1, state}, sum, "second");
  const moe::Plan plan = bench.plan();
  REQUIRE(plan.node_count() == 4);
  const moe_graph graph = plan.view();
  CHECK(graph.nodes[1].op == MOE_ACCUMULATE);
  CHECK(graph.nodes[2].op == MOE_NORM);
  CHECK(graph.nodes[2].output[0] == -1);
  CHECK(graph.nodes[2].output[1] >= 0);
  CHECK(plan.label(3) == "second");
  CHECK(graph.nodes[2].attribute_bytes == sizeof(moe_norm));
  CHECK(static_cast<const moe_norm *>(graph.nodes[2].attributes)->width == 8);
}

TEST_CASE("scratch lives during its node only, beside the node's operands") {
  Bench bench;
  int32_t value = bench.input("x");
  for (int i = 0; i < 10; ++i) value = bench.map(value);
  bench.graph.add_output("y", value);
  const moe::Plan plan = bench.plan(16, [](const moe_graph &graph, int64_t *bytes) {
    for (int32_t i = 0; i < graph.node_count; ++i) bytes[i] = 1000;
  });
  CHECK(plan.arena_bytes() == 1024 + 2 * 512);
  const moe_graph graph = plan.view();
  for (int32_t i = 0; i < graph.node_count; ++i)
    for (const int32_t operand : {graph.nodes[i].input[0], graph.nodes[i].output[0]}) {
      const moe_value &at = graph.values[operand];
      if (at.role == MOE_ROLE_INNER)
        CHECK_FALSE(overlap({1000, i, i, graph.nodes[i].scratch_offset}, {512, i, i, at.arena_offset}));
    }
}

TEST_CASE("sizes: maxima at planning, sizes at a run, bytes and cost") {
  Bench bench;
  const int32_t y = bench.map(bench.input("x"));
  CHECK(error_of([&] { bench.plan(); }).starts_with("INVALID_ARGUMENT graph: expected an output"));
  bench.graph.add_output("y", y);
  const auto planned = [&](const moe::MaxSizes &sizes) {
    return error_of([&] { moe::Plan(bench.graph, sizes, no_scratch); });
  };
  CHECK(planned({}) == "INVALID_ARGUMENT maxSizes.tokens: expected a bound for every symbol of the graph, got nothing");
  CHECK(planned({{"tokens", 4}, {"token", 4}})
            .starts_with("INVALID_ARGUMENT maxSizes.token: expected a symbol of the graph"));
  CHECK(planned({{"tokens", -1}}).starts_with("INVALID_ARGUMENT maxSizes.tokens"));
  CHECK(planned({{"tokens", int64_t{1} << 40}}).starts_with("INVALID_ARGUMENT maxSizes.tokens"));
  CHECK(planned({{"tokens", 0}}) == "");
  moe::Plan first = bench.plan();
  const moe::Plan plan = std::move(first);
  const std::vector<int64_t> three{3}, many{17}, negative{-1};
  plan.check_sizes(three);
  CHECK(error_of([&] { plan.check_sizes(many); }) ==
        "INVALID_ARGUMENT sizes.tokens: expected an integer 0 … 16, got 17");
  CHECK(error_of([&] { plan.check_sizes(negative); }).starts_with("INVALID_ARGUMENT sizes.tokens"));
  CHECK(error_of([&] { plan.check_sizes({}); }).starts_with("INVALID_ARGUMENT sizes"));
  CHECK(plan.binding_bytes(1, three) == 3 * 8 * 4);
  CHECK(plan.cost(0, three).bytes == 2 * 3 * 8 * 4);
  Bench wide;
  wide.graph.add_output("y", wide.map(wide.input("x", {{1000000, "tokens"}, {8}})));
  CHECK(error_of([&] {
          wide.plan(100000);
        }).starts_with("INVALID_ARGUMENT maxSizes: expected dimensions up to 2147483647"));
}
