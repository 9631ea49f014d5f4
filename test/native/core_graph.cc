#include "core/graph.h"
#include "core_check.h"

namespace {

using moe::Dimension;

const Dimension tokens{1, "tokens"};

// A graph with the operands that most operations take.
struct Bench {
  moe::Graph graph;
  int32_t input(std::string_view name, std::string_view dtype, std::vector<Dimension> shape) {
    return graph.add_input(name, graph.make_type(name, dtype, shape));
  }
  int32_t state(std::string_view name, std::string_view dtype, std::vector<Dimension> shape) {
    return graph.add_state(name, graph.make_type(name, dtype, shape));
  }
  int32_t constant(std::string_view dtype, std::vector<Dimension> shape) {
    return graph.add_constant(nullptr, 1 << 30, graph.make_type("constant", dtype, shape));
  }
  int32_t weight(int64_t in, int64_t out, int32_t slots, bool gated, bool integer = false) {
    return graph.add_weight(nullptr, {in, out, slots, gated, integer});
  }
  std::string printed(int32_t value) { return moe::print_type(graph.type(value), graph.symbols()); }
  std::string refused(std::string_view operation, std::vector<int32_t> inputs,
                      const moe::AttributeList &attributes = {}) {
    return error_of([&] { graph.add_node(operation, inputs, attributes); });
  }
};

}  // namespace

TEST_CASE("types: symbols, dimensions and their text") {
  Bench bench;
  CHECK(bench.printed(bench.input("x", "f32", {tokens, {128}})) == "[tokens, 128] f32");
  CHECK(bench.printed(bench.input("rows", "bf16", {{8, "tokens"}, {4}})) == "[8·tokens, 4] bf16");
  const auto type = [&](std::string_view dtype, std::vector<Dimension> shape) {
    return error_of([&] { bench.graph.make_type("x", dtype, shape); });
  };
  CHECK(type("f8", {{1}}) == "INVALID_ARGUMENT x: expected f32, f16, bf16, f64, i32, i8 or u8, got 'f8'");
  CHECK(type("i4", {{1}}).starts_with("INVALID_ARGUMENT x"));
  CHECK(type("f32", {}).starts_with("INVALID_ARGUMENT x: expected 1 … 4 dimensions, got 0"));
  CHECK(type("f32", {{1}, {1}, {1}, {1}, {1}}).ends_with("got 5"));
  for (const int64_t bad : {int64_t{0}, int64_t{-1}, int64_t{1} << 31})
    CHECK(type("f32", {{bad}}).starts_with("INVALID_ARGUMENT x"));
  CHECK(type("f32", {{2}, tokens}).starts_with("INVALID_ARGUMENT x: expected a symbol in the first dimension only"));
  for (const char *name : {"b", "c", "d", "e", "f", "g", "h"}) CHECK(type("f32", {{1, name}}) == "");
  CHECK(type("f32", {{1, "i"}}).starts_with("INVALID_ARGUMENT x: expected at most 8 symbols"));
}

TEST_CASE("names and outputs are checked") {
  Bench bench;
  const int32_t x = bench.input("x", "f32", {tokens, {8}});
  const int32_t y = bench.graph.add_node("map", std::vector<int32_t>{x}, {{"function", std::string("relu")}})[0];
  CHECK(error_of([&] { bench.input("x", "f32", {{1}}); }).starts_with("INVALID_ARGUMENT name"));
  CHECK(error_of([&] { bench.input("", "f32", {{1}}); }).starts_with("INVALID_ARGUMENT name"));
  CHECK(error_of([&] { bench.graph.add_output("x", y); }).starts_with("INVALID_ARGUMENT name"));
  CHECK(error_of([&] { bench.graph.add_output("y", x); }).ends_with("an input, state or constant as output 'y'"));
  CHECK(error_of([&] { bench.graph.add_output("y", 99); }).starts_with("INVALID_ARGUMENT value"));
  CHECK(error_of([&] { bench.graph.add_output("y", bench.weight(1, 1, 1, false)); }).ends_with("got a weight"));
  bench.graph.add_output("y", y);
  CHECK(error_of([&] { bench.graph.add_output("z", y); }).ends_with("got the value of output 'y' as output 'z'"));
  CHECK(error_of([&] { bench.graph.add_constant(nullptr, 31, moe::make_type(MOE_F32, {moe::fixed_dim(8)})); }) ==
        "SHAPE_MISMATCH constant: expected a buffer of at least 32 bytes for [8] f32, got 31 bytes");
}

TEST_CASE("linear: dense, grouped, gated, and every mismatch") {
  Bench bench;
  const int32_t x = bench.input("x", "f32", {tokens, {128}}), ids = bench.input("ids", "i32", {tokens});
  const int32_t rows = bench.input("rows", "i32", {{2, "tokens"}}), offsets = bench.input("offsets", "i32", {{5}});
  const int32_t dense = bench.weight(128, 64, 1, false), bank = bench.weight(128, 64, 4, true, true);
  const auto made = [&](std::vector<int32_t> inputs, const moe::AttributeList &attributes = {}) {
    return bench.printed(bench.graph.add_node("linear", inputs, attributes)[0]);
  };
  const moe::AttributeList swiglu{{"activation", std::string("swiglu")}};
  CHECK(made({x, dense}) == "[tokens, 64] f32");
  CHECK(made({x, bank, rows, offsets}, swiglu) == "[2·tokens, 32] f32");
  CHECK(made({x, bank, -1, offsets}, swiglu) == "[tokens, 32] f32");
  CHECK(bench.refused("linear", {x}) == "INVALID_ARGUMENT linear.weight: expected a value of the graph, got nothing");
  CHECK(bench.refused("linear", {x, x}) == "INVALID_ARGUMENT linear.weight: expected a weight, got a tensor value");
  CHECK(bench.refused("linear", {dense, dense}) == "INVALID_ARGUMENT linear.x: expected a tensor value, got a weight");
  CHECK(bench.refused("linear", {77, dense})
            .starts_with("INVALID_ARGUMENT linear.x: expected a value of the graph, 0 …"));
  CHECK(bench.refused("linear", {x, bench.weight(96, 64, 1, false)}) ==
        "SHAPE_MISMATCH linear.x: expected [rows, 96], got [tokens, 128] f32");
  CHECK(bench.refused("linear", {ids, dense}) ==
        "DTYPE_MISMATCH linear.x: expected f32, f16 or bf16, got [tokens] i32");
  CHECK(bench.refused("linear", {x, bank, rows, offsets})
            .starts_with("INVALID_ARGUMENT linear.activation: expected 'swiglu' or 'geglu'"));
  CHECK(bench.refused("linear", {x, dense}, swiglu).starts_with("INVALID_ARGUMENT linear.activation"));
  CHECK(
      bench.refused("linear", {x, dense}, {{"mode", std::string("int8")}}).starts_with("INVALID_ARGUMENT linear.mode"));
  CHECK(bench.refused("linear", {x, bank}, swiglu)
            .starts_with("INVALID_ARGUMENT linear.weight: expected a weight of 1 slot"));
  CHECK(bench.refused("linear", {x, dense, rows})
            .starts_with("INVALID_ARGUMENT linear.tokenOf: expected nothing without offsets"));
  CHECK(bench.refused("linear", {x, bank, rows, rows}, swiglu) ==
        "SHAPE_MISMATCH linear.offsets: expected [5], got [2·tokens] i32");
  CHECK(bench.refused("linear", {x, dense, -1, -1, x}) ==
        "SHAPE_MISMATCH linear.residual: expected [tokens, 64], got [tokens, 128] f32");
  CHECK(bench.refused("linear", {x, dense, -1, -1, -1, -1})
            .starts_with("INVALID_ARGUMENT linear: expected at most 5 inputs"));
  CHECK(error_of([&] { bench.weight(8, 7, 1, true); }).starts_with("INVALID_ARGUMENT weight"));
}

TEST_CASE("route and combine: the shapes of a routing, with and without groups") {
  Bench bench;
  const int32_t logits = bench.input("logits", "f32", {tokens, {16}}), ids = bench.input("ids", "i32", {tokens, {4}});
  const int32_t groups = bench.constant("i32", {{16}});
  const moe::AttributeList four{{"experts", 16.0}, {"topK", 4.0}};
  const auto routing = bench.graph.add_node("route", std::vector<int32_t>{logits}, four);
  REQUIRE(routing.size() == 6);
  CHECK(bench.printed(routing[2]) == "[tokens, 4] i32");
  CHECK(bench.printed(routing[3]) == "[4·tokens] i32");
  CHECK(bench.printed(routing[4]) == "[4·tokens] f32");
  CHECK(bench.printed(routing[5]) == "[17] i32");
  moe::AttributeList merged = four;
  merged.emplace_back("slots", 5.0);
  const auto second = bench.graph.add_node("route", std::vector<int32_t>{logits, -1, groups, ids}, merged);
  CHECK(bench.printed(second[5]) == "[6] i32");
  CHECK(bench.refused("route", {logits}, merged).starts_with("INVALID_ARGUMENT route.slots: expected 16"));
  CHECK(bench.refused("route", {logits, -1, groups}, four).starts_with("INVALID_ARGUMENT route.slots"));
  CHECK(bench.refused("route", {logits, -1, ids}, four) ==
        "SHAPE_MISMATCH route.groupOf: expected [16], got [tokens, 4] i32");
  CHECK(bench.refused("route", {-1}, four)
            .starts_with("INVALID_ARGUMENT route.logits: expected a value where ids are not given"));
  CHECK(bench.refused("route", {-1, -1, -1, ids}, four).starts_with("INVALID_ARGUMENT route.gates: expected a value"));
  CHECK(bench.refused("route", {logits}, {{"experts", 16.0}, {"topK", 17.0}})
            .starts_with("INVALID_ARGUMENT route.topK: expected at most the 16"));
  CHECK(bench.refused("route", {logits}, {{"experts", 16.0}, {"topK", 5.0}, {"expertGroups", 8.0}, {"keptGroups", 2.0}})
            .starts_with("INVALID_ARGUMENT route.topK: expected at most the 4"));
  CHECK(bench.refused("route", {logits}, {{"experts", 16.0}, {"topK", 1.0}, {"expertGroups", 5.0}})
            .starts_with("INVALID_ARGUMENT route.expertGroups"));
  CHECK(bench.refused("route", {logits}, {{"experts", 15.0}, {"topK", 1.0}}) ==
        "SHAPE_MISMATCH route.logits: expected [tokens, 15], got [tokens, 16] f32");

  const int32_t rows = bench.input("rows", "f32", {{4, "tokens"}, {32}});
  const auto combined = [&](std::vector<int32_t> inputs) {
    return bench.printed(bench.graph.add_node("combine", inputs, {})[0]);
  };
  CHECK(combined({rows, routing[2], routing[4]}) == "[tokens, 32] f32");
  CHECK(combined({rows, routing[2], routing[4], -1, -1, -1, second[2]}) == "[4·tokens, 32] f32");
  CHECK(bench.refused("combine", {rows, routing[2], routing[4], -1, logits})
            .starts_with("INVALID_ARGUMENT combine.sharedGate"));
  CHECK(bench.refused("combine", {rows, routing[2], routing[4], logits}) ==
        "SHAPE_MISMATCH combine.shared: expected [tokens, 32], got [tokens, 16] f32");
}

TEST_CASE("attention and norm complete their attributes; states must be states") {
  Bench bench;
  const int32_t q = bench.input("q", "f32", {tokens, {64}}), k = bench.input("k", "f32", {tokens, {32}});
  const int32_t positions = bench.input("positions", "i32", {tokens}),
                lengths = bench.input("lengths", "i32", {{1, "sequences"}});
  const int32_t pages = bench.input("pages", "i32", {{1, "table"}});
  const int32_t keys = bench.state("keys", "f32", {{1, "pages"}, {16}, {32}}),
                values = bench.state("values", "f32", {{1, "pages"}, {16}, {32}});
  const moe::AttributeList heads{{"heads", 4.0}, {"kvHeads", 2.0}};
  const int32_t y = bench.graph.add_node(
      "attention", std::vector<int32_t>{q, k, k, positions, positions, lengths, pages, keys, values}, heads)[0];
  CHECK(bench.printed(y) == "[tokens, 64] f32");
  const auto *attention = reinterpret_cast<const moe_attention *>(bench.graph.nodes()[0].attributes.data());
  CHECK(attention->scale == 0.25f);
  CHECK(bench.refused("attention", {q, k, k, positions, positions, lengths, pages, keys, keys}, heads)
            .starts_with("INVALID_ARGUMENT attention.vCache: expected a state of its own"));
  const int32_t plain = bench.input("plain", "f32", {{1, "pages"}, {16}, {32}});
  CHECK(bench.refused("attention", {q, k, k, positions, positions, lengths, pages, plain, values}, heads)
            .starts_with("INVALID_ARGUMENT attention.kCache: expected a state of the graph"));
  CHECK(bench.refused("attention", {q, q, k, positions, positions, lengths, pages, keys, values}, heads)
            .starts_with("SHAPE_MISMATCH attention.k: expected [tokens, 32]"));
  CHECK(bench
            .refused("attention", {q, k, k, positions, positions, lengths, pages, keys, values},
                     {{"heads", 4.0}, {"kvHeads", 3.0}})
            .starts_with("INVALID_ARGUMENT attention.kvHeads"));

  const auto norm = bench.graph.add_node("norm", std::vector<int32_t>{q, bench.constant("bf16", {{64}}), -1, q}, {});
  CHECK(norm.size() == 2);
  CHECK(bench.printed(norm[1]) == "[tokens, 64] f32");
  CHECK(reinterpret_cast<const moe_norm *>(bench.graph.nodes()[1].attributes.data())->width == 64);
  CHECK(bench.graph.add_node("norm", std::vector<int32_t>{q}, {})[1] == -1);
  CHECK(bench.refused("norm", {q}, {{"width", 48.0}}).starts_with("INVALID_ARGUMENT norm.width"));
  CHECK(bench.refused("norm", {q, q}).starts_with("SHAPE_MISMATCH norm.weight: expected [64]"));
}

TEST_CASE("statistics, scores and selection") {
  Bench bench;
  const int32_t a = bench.input("a", "f32", {tokens, {3}}), b = bench.input("b", "f32", {tokens, {5}});
  const int32_t ids = bench.input("ids", "i32", {tokens}), offsets = bench.input("offsets", "i32", {{5}});
  const int32_t flat = bench.state("flat", "f64", {{3}, {5}}), grouped = bench.state("grouped", "f64", {{4}, {3}, {5}});
  const moe::AttributeList gram{{"statistic", std::string("gram")}};
  CHECK(bench.refused("accumulate", {a, b, -1, -1, flat}, gram) == "");
  CHECK(bench.refused("accumulate", {a, b, offsets, -1, grouped}, gram) == "");
  CHECK(bench.refused("accumulate", {a, b, offsets, -1, flat}, gram) ==
        "SHAPE_MISMATCH accumulate.state: expected [4, 3, 5], got [3, 5] f64");
  CHECK(bench.refused("accumulate", {a, b, -1, -1, flat}, {{"statistic", std::string("sum")}})
            .starts_with("INVALID_ARGUMENT accumulate.b"));
  CHECK(bench.refused("accumulate", {a, b, -1, -1, b}, gram)
            .starts_with("DTYPE_MISMATCH accumulate.state: expected f64"));
  const auto score = bench.graph.add_node("score", std::vector<int32_t>{a}, {{"topK", 2.0}});
  CHECK(score[0] == -1);
  CHECK(bench.printed(score[1]) == "[tokens, 2] i32");
  CHECK(bench.refused("score", {a}).starts_with("INVALID_ARGUMENT score.ids"));
  CHECK(bench.refused("score", {a}, {{"topK", 4.0}})
            .starts_with("INVALID_ARGUMENT score.topK: expected at most the vocabulary, 3"));
  CHECK(bench.refused("take", {a, b}).starts_with("DTYPE_MISMATCH take.index"));
  CHECK(bench.printed(bench.graph.add_node("take", std::vector<int32_t>{a, ids}, {})[0]) == "[tokens, 3] f32");
  CHECK(bench.refused("map", {a, b}, {{"function", std::string("add")}}).starts_with("SHAPE_MISMATCH map.b"));
  CHECK(bench.refused("map", {a, a}, {{"function", std::string("relu")}}).starts_with("INVALID_ARGUMENT map.b"));
  CHECK(bench.refused("embed", {ids, a}).starts_with("INVALID_ARGUMENT embed.table: expected a constant of the graph"));
}
