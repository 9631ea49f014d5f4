// cpu accumulate against the reference: counts, sums, norms and Gram matrices, whole and by slot, with gates.
#include "cpu_operations.h"

namespace moe::test {
namespace {

struct Form {
  int64_t rows, width, other = 0;  // other: the width of b, 0 where b is a
  bool grouped = false, gated = false;
};

void judge_statistic(const moe_accumulate &attributes, const Form &form) {
  CAPTURE(attributes.statistic);
  CAPTURE(attributes.gate_power);
  CAPTURE(form.rows);
  CAPTURE(form.width);
  CAPTURE(form.other);
  Case graph;
  const int32_t tokens = graph.symbol_of(form.rows);
  const int a = graph.input(random_array(MOE_F32, {form.rows, form.width}, 1), {symbol(tokens), form.width});
  const int b = form.other > 0
                    ? graph.input(random_array(MOE_F32, {form.rows, form.other}, 2), {symbol(tokens), form.other})
                    : -1;
  const auto rows = static_cast<double>(form.rows);
  // A slot without rows, rows before the first and after the last, and an end past all rows.
  const int offsets =
      form.grouped ? graph.input(i32({5}, {1, std::floor(rows / 3), std::floor(rows / 3), rows - 1, rows + 5})) : -1;
  const int gates = form.gated ? graph.input(random_array(MOE_F32, {form.rows}, 3), {symbol(tokens)}) : -1;
  const int64_t second = form.other > 0 ? form.other : form.width, slots = form.grouped ? 4 : 1;
  const int64_t part = attributes.statistic == MOE_SUM        ? form.width
                       : attributes.statistic == MOE_NORM_SUM ? 1
                                                              : form.width * second;
  Array before = filled(MOE_F64, {slots * part});
  for (int64_t i = 0; i < before.size(); ++i) before.set(i, 0.5);
  const int state = graph.state(before);
  graph.node(MOE_ACCUMULATE, attributes, {a, b, offsets, gates, state}, {});
  judge(graph, 2e-5, false);
}

TEST_CASE("cpu accumulate: sums and norms") {
  for (const int32_t statistic : {MOE_SUM, MOE_NORM_SUM}) {
    for (const int64_t width : {1, 3, 17, 60, 257, 511}) {
      for (const int32_t power : {0, 1, 2}) {
        judge_statistic({statistic, power}, {40, width, 0, false, power > 0});
        judge_statistic({statistic, power}, {300, width, 0, true, true});
      }
    }
  }
}

TEST_CASE("cpu accumulate: Gram matrices") {
  for (const int64_t width : {1, 3, 17, 72, 96, 97, 200}) {
    judge_statistic({MOE_GRAM, 0}, {5, width});
    judge_statistic({MOE_GRAM, 1}, {300, width, 0, false, true});
    judge_statistic({MOE_GRAM, 2}, {140, width, 0, true, true});
    judge_statistic({MOE_GRAM, 1}, {260, width, 60, true, true});
    judge_statistic({MOE_GRAM, 0}, {129, width, 130, false, false});
  }
}

TEST_CASE("cpu accumulate: counts of ids within the state") {
  Case graph;
  const int32_t tokens = graph.symbol_of(50);
  const int ids = graph.input(random_integers({50, 4}, 1, -3, 12), {symbol(tokens), 4});
  const int state = graph.state(filled(MOE_F64, {10}, 2));
  graph.node(MOE_ACCUMULATE, moe_accumulate{MOE_COUNT, 0}, {ids, -1, -1, -1, state}, {});
  judge(graph, 0, false);
}

}  // namespace
}  // namespace moe::test
