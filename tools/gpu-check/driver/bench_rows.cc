#include "bench_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe::gpu_check {
namespace {

using test::Array;
using test::Case;

const moe_part int4 = integer_part(MOE_I4, MOE_F16, false, 128);

int add_weight(BenchRow &row, const BankShape &shape, Random &random) {
  row.banks.push_back(random_bank(shape, random));
  return row.graph.weight(row.banks.back()->plain);
}

Array zeros(int32_t dtype, test::Shape shape) { return test::filled(dtype, std::move(shape)); }

BenchRow routing(Random &random, int64_t tokens) {
  constexpr int64_t experts = 256, top = 8;
  BenchRow row;
  row.repeats = tokens > 1000 ? 4 : 16;
  row.bytes = tokens * (experts * 4 + top * (4 + 4 + 4 + 4 + 4)) + 4 * (experts + 1);
  Case &graph = row.graph;
  const int logits = graph.input(random.normals(MOE_F32, {tokens, experts}, 2));
  for (int64_t i = 0; i < row.repeats; ++i)
    graph.node(MOE_ROUTE,
               moe_route{MOE_SOFTMAX, static_cast<int32_t>(top), 1, 0, static_cast<int32_t>(experts),
                         static_cast<int32_t>(experts), 1, 1, 1.0F, 0, 0, 0},
               {logits},
               {graph.inner(MOE_I32, {tokens, top}), graph.inner(MOE_F32, {tokens, top}),
                graph.inner(MOE_I32, {tokens, top}), graph.inner(MOE_I32, {tokens * top}),
                graph.inner(MOE_F32, {tokens * top}), graph.inner(MOE_I32, {experts + 1})});
  return row;
}

BenchRow dense(Random &random, int64_t tokens, int64_t width, int64_t repeats, const std::vector<moe_part> &parts) {
  BenchRow row;
  row.repeats = repeats;
  row.weight_share = 1 / static_cast<double>(repeats);
  row.bytes = 2 * 2 * tokens * width;
  row.operations = 2 * tokens * width * width;
  row.dense = DenseProduct{tokens, width, width};
  if (tokens > 256) row.limit = "bf16";
  const int x = row.graph.input(random.normals(MOE_BF16, {tokens, width}));
  for (int64_t i = 0; i < repeats; ++i)
    row.graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_EXACT, MOE_BF16},
                   {x, add_weight(row, {width, width, 1, false, parts}, random)},
                   {row.graph.inner(MOE_BF16, {tokens, width})});
  return row;
}

struct Model {
  int64_t hidden, wide, experts, top;
};

// Rows in order of their experts: token_of [rows], offsets [experts + 1], and how many experts have one.
struct Choice {
  Array token_of, offsets;
  int64_t touched;
};
Choice choose(Random &random, const Model &model, int64_t tokens, int64_t turn) {
  std::vector<std::vector<int64_t>> of(static_cast<size_t>(model.experts));
  for (int64_t t = 0; t < tokens; ++t) {
    // A lone token takes other experts at each turn.
    std::vector<int32_t> chosen = random.distinct(model.top, model.experts);
    for (int64_t j = 0; tokens == 1 && j < model.top; ++j)
      chosen[static_cast<size_t>(j)] = static_cast<int32_t>((turn * model.top + j) % model.experts);
    for (const int32_t expert : chosen) of[static_cast<size_t>(expert)].push_back(t);
  }
  Choice choice{zeros(MOE_I32, {tokens * model.top}), zeros(MOE_I32, {model.experts + 1}), 0};
  int64_t row = 0;
  for (size_t e = 0; e < of.size(); ++e) {
    for (const int64_t token : of[e]) choice.token_of.set(row++, static_cast<double>(token));
    choice.offsets.set(static_cast<int64_t>(e) + 1, static_cast<double>(row));
    choice.touched += of[e].empty() ? 0 : 1;
  }
  return choice;
}

// The gated and the down product of all chosen experts.
BenchRow experts(Random &random, const Model &model, int64_t tokens) {
  BenchRow row;
  Case &graph = row.graph;
  const auto slots = static_cast<int32_t>(model.experts);
  const int64_t rows = tokens * model.top;
  const int up = add_weight(row, {model.hidden, 2 * model.wide, slots, true, {int4}}, random),
            down = add_weight(row, {model.wide, model.hidden, slots, false, {int4}}, random);
  const int x = graph.input(random.normals(MOE_BF16, {tokens, model.hidden}));
  row.repeats = tokens > 64 ? 1 : 4;
  row.bytes = 2 * (tokens * model.hidden + 2 * rows * model.wide + rows * model.hidden) + 4 * rows;
  row.operations = 2 * rows * 3 * model.hidden * model.wide;
  if (tokens > 256) row.limit = "bf16";
  for (int64_t i = 0; i < row.repeats; ++i) {
    const Choice choice = choose(random, model, tokens, i);
    row.weight_share +=
        static_cast<double>(choice.touched) / static_cast<double>(model.experts) / static_cast<double>(row.repeats);
    const int token_of = graph.input(choice.token_of), offsets = graph.input(choice.offsets);
    const int inner = graph.inner(MOE_BF16, {rows, model.wide});
    graph.node(MOE_LINEAR, moe_linear{MOE_SWIGLU, MOE_EXACT, MOE_BF16}, {x, up, token_of, offsets}, {inner});
    graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_EXACT, MOE_BF16}, {inner, down, -1, offsets},
               {graph.inner(MOE_BF16, {rows, model.hidden})});
  }
  return row;
}

// One new token of each sequence over `keys` earlier ones.
BenchRow decode(Random &random, int64_t sequences, int64_t keys) {
  constexpr int64_t heads = 32, kv_heads = 8, size = 128, page = 16;
  const int64_t pages = sequences * keys / page;
  BenchRow row;
  Case &graph = row.graph;
  row.repeats = sequences > 1 ? 1 : 4;
  row.bytes = sequences * keys * 2 * 2 * kv_heads * size;
  row.operations = sequences * keys * 4 * heads * size;
  const auto flow = [&](int64_t width) { return graph.input(random.normals(MOE_BF16, {sequences, width})); };
  Array order = zeros(MOE_I32, {pages}), sequence = zeros(MOE_I32, {sequences});
  const std::vector<int32_t> shuffled = random.distinct(pages, pages);
  for (int64_t i = 0; i < pages; ++i) order.set(i, shuffled[static_cast<size_t>(i)]);
  for (int64_t s = 0; s < sequences; ++s) sequence.set(s, static_cast<double>(s));
  const int q = flow(heads * size), k = flow(kv_heads * size), v = flow(kv_heads * size);
  const int positions = graph.input(test::filled(MOE_I32, {sequences}, static_cast<double>(keys - 1))),
            owner = graph.input(sequence),
            lengths = graph.input(test::filled(MOE_I32, {sequences}, static_cast<double>(keys))),
            table = graph.input(order);
  for (int64_t i = 0; i < row.repeats; ++i)
    graph.node(MOE_ATTENTION, moe_attention{heads, kv_heads, 1, 0, 1 / std::sqrt(static_cast<float>(size)), 0},
               {q, k, v, positions, owner, lengths, table, graph.state(zeros(MOE_BF16, {pages, page, kv_heads * size})),
                graph.state(zeros(MOE_BF16, {pages, page, kv_heads * size}))},
               {graph.inner(MOE_BF16, {sequences, heads * size})});
  return row;
}

}  // namespace

std::vector<BenchPlan> bench_plans(bool small) {
  const int64_t wide = small ? 256 : 8192, deep = small ? 256 : 4096, prefill = small ? 40 : 2048,
                keys = small ? 64 : 8192, sets = small ? 1 : 4;
  const Model mixtral = small ? Model{128, 256, 8, 2} : Model{4096, 14336, 8, 2};
  const Model qwen = small ? Model{128, 128, 16, 4} : Model{2048, 768, 128, 8};
  std::vector<BenchPlan> plans;
  for (const int64_t tokens : {1, 64, small ? 512 : 8192})
    plans.push_back(
        {"route, 8 of 256, tokens " + std::to_string(tokens), [=](Random &random) { return routing(random, tokens); }});
  for (const int64_t tokens : {1, 16})
    plans.push_back({"dense int4 " + std::to_string(wide) + "², tokens " + std::to_string(tokens),
                     [=](Random &random) { return dense(random, tokens, wide, sets, {int4}); }});
  for (const auto &[name, model] : {std::pair{"Mixtral", mixtral}, std::pair{"Qwen3", qwen}})
    for (const int64_t tokens : {int64_t{1}, int64_t{8}, int64_t{64}, prefill})
      plans.push_back({std::string("experts int4 ") + name + ", tokens " + std::to_string(tokens),
                       [model = model, tokens](Random &random) { return experts(random, model, tokens); }});
  plans.push_back({"dense int4 " + std::to_string(deep) + "², tokens " + std::to_string(prefill),
                   [=](Random &random) { return dense(random, prefill, deep, sets, {int4}); }});
  moe_part half = float_part(MOE_BF16, MOE_PART_SPARSE);
  half.n = 2;
  half.m = 4;
  moe_part in = float_part(MOE_BF16, MOE_PART_FACTOR_IN), out = float_part(MOE_BF16, MOE_PART_FACTOR_OUT);
  in.size = out.size = 32;
  plans.push_back({"dense 2:4 bf16 " + std::to_string(deep) + "², tokens 1",
                   [=](Random &random) { return dense(random, 1, deep, sets, {half}); }});
  plans.push_back({"dense int4 + rank 32, " + std::to_string(deep) + "², tokens 1",
                   [=](Random &random) { return dense(random, 1, deep, sets, {int4, in, out}); }});
  for (const int64_t sequences : {1, 16})
    plans.push_back({"attention, " + std::to_string(keys) + " keys, sequences " + std::to_string(sequences),
                     [=](Random &random) { return decode(random, sequences, keys); }});
  return plans;
}

}  // namespace moe::gpu_check
