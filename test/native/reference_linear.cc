// Linear on the reference: by hand, by slots against dense, every store, ragged banks, mode int8.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "backend_harness.h"

extern "C" const moe_backend *moe_backend_reference(void);

namespace {

using namespace moe::test;

std::vector<Array> reference(const Case &graph) { return run(moe_backend_reference(), graph, "foreign=1"); }

// x·Wᵀ + bias of one slot from the harness's own decoding.
std::vector<double> expected_rows(const Bank &bank, int32_t s, const Array &x, int64_t out) {
  const Bank::Slot &slot = bank.slots[static_cast<size_t>(s)];
  std::vector<double> y;
  for (int64_t t = 0; t < x.size() / bank.form.in; ++t) {
    for (int64_t n = 0; n < out; ++n) {
      double sum = n < slot.out && bank.form.bias ? slot.bias.at(n) : 0;
      for (int64_t k = 0; n < slot.out && k < slot.in; ++k) sum += bank.weight(s, n, k) * x.at(t * bank.form.in + k);
      y.push_back(sum);
    }
  }
  return y;
}

}  // namespace

TEST_CASE("reference linear: by hand, activation, residual, gated") {
  Case graph;
  const int x = graph.input(f32({2, 2}, {1, 2, -1, 0})), residual = graph.input(f32({2, 2}, {100, 200, 300, 400}));
  const int weight = graph.weight(dense_bank(MOE_F32, 2, 2, {1, 10, -1, -1})),
            gated = graph.weight(dense_bank(MOE_F32, 2, 2, {1, 0, 0, 1}, true));
  const int relu = graph.output(MOE_F32, {2, 2}), swiglu = graph.output(MOE_F32, {2, 1});
  graph.node(MOE_LINEAR, moe_linear{MOE_RELU, MOE_AUTO, MOE_F32}, {x, weight, -1, -1, residual}, {relu});
  graph.node(MOE_LINEAR, moe_linear{MOE_SWIGLU, MOE_EXACT, MOE_F32}, {x, gated}, {swiglu});
  const auto results = reference(graph);
  CHECK(results[relu].values() == std::vector<double>{121, 200, 300, 401});
  CHECK(difference(results[swiglu], {2 / (1 + std::exp(-1.0)), 0}) < 1e-7);
}

TEST_CASE("reference linear: every store") {
  for (const moe_part &part :
       {float_part(MOE_F32), float_part(MOE_F16), float_part(MOE_BF16), integer_part(MOE_I8, 0, MOE_F32),
        integer_part(MOE_I8, 32, MOE_F16, true), integer_part(MOE_I4, 32, MOE_F16, true),
        integer_part(MOE_I4, 64, MOE_F32), integer_part(MOE_I4, 0, MOE_F32, true)}) {
    const Bank bank = random_bank({71, 9, 1, false, part, true}, 3);
    const Array inputs = random_array(MOE_BF16, {3, 71}, 4);
    Case graph;
    const int x = graph.input(inputs), weight = graph.weight(bank), y = graph.output(MOE_F32, {3, 9});
    graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_EXACT, MOE_F32}, {x, weight}, {y});
    CHECK(difference(reference(graph)[y].values(), expected_rows(bank, 0, inputs, 9)) < 1e-6);
  }
}

TEST_CASE("reference linear: grouped equals dense by slot; ragged widths, gathered tokens, rows past the end stay") {
  const Bank bank =
      random_bank({40, 12, 3, false, integer_part(MOE_I4, 32, MOE_F16, true), true, {40, 33, 40}, {12, 5, 0}}, 5);
  const Array inputs = random_array(MOE_F32, {4, 40}, 6);
  Case graph;
  const int x = graph.input(inputs), weight = graph.weight(bank);
  const int token_of = graph.input(i32({8}, {3, 0, 1, 2, 99, 3, 0, 0})), offsets = graph.input(i32({4}, {0, 3, 5, 6}));
  const int y = graph.output(MOE_F32, {8, 12}, 77);
  graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_EXACT, MOE_F32}, {x, weight, token_of, offsets}, {y});
  const Array result = reference(graph)[y];
  const int slot_of[] = {0, 0, 0, 1, 1, 2};
  const int tokens[] = {3, 0, 1, 2, -1, 3};
  for (int r = 0; r < 6; ++r) {
    const Array zeros = filled(MOE_F32, {1, 40});
    const auto rows = expected_rows(bank, slot_of[r], tokens[r] < 0 ? zeros : inputs, 12);
    const int64_t begin = tokens[r] < 0 ? 0 : tokens[r] * 12;
    for (int64_t n = 0; n < 12; ++n)
      CHECK(result.at(r * 12 + n) == doctest::Approx(rows[static_cast<size_t>(begin + n)]).epsilon(1e-5));
  }
  for (int64_t i = 6 * 12; i < 8 * 12; ++i) CHECK(result.at(i) == 77);
}

TEST_CASE("reference linear: broken offsets and empty runs never fault") {
  for (const auto &broken : {std::vector<double>{0, 5, 2}, {-7, 99, -3}, {2147483647, -2147483648.0, 4}, {4, 4, 4}}) {
    Case graph;
    const int32_t t = graph.symbol_of(4);
    const int x = graph.input(random_array(MOE_F32, {4, 8}, 1), {symbol(t), 8}),
              offsets = graph.input(i32({3}, broken));
    const int weight = graph.weight(random_bank({8, 6, 2, false, float_part(MOE_F32)}, 2)),
              y = graph.output(MOE_F32, {symbol(t), 6});
    graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_EXACT, MOE_F32}, {x, weight, -1, offsets}, {y});
    CHECK_NOTHROW(reference(graph));
    CHECK_NOTHROW(run(moe_backend_reference(), graph, "foreign=1", {0}));
  }
}

TEST_CASE("reference linear: mode int8 is its formula") {
  for (const int32_t group : {0, 32}) {
    const Bank bank = random_bank({70, 6, 1, false, integer_part(MOE_I4, group, MOE_F32, true)}, 7);
    const Array inputs = random_array(MOE_F32, {2, 70}, 8);
    Case graph;
    const int x = graph.input(inputs), weight = graph.weight(bank), y = graph.output(MOE_F32, {2, 6});
    graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_INT8, MOE_F32}, {x, weight}, {y});
    const Bank::Slot &slot = bank.slots[0];
    std::vector<double> expected;
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t n = 0; n < 6; ++n) {
        double sum = 0;
        for (int64_t block = 0; block < slot.groups; ++block) {
          const int64_t width = group > 0 ? group : 70, begin = block * width,
                        end = std::min<int64_t>(begin + width, 70);
          float largest = 0;
          for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::abs(inputs.raw<float>(t * 70 + k)));
          const float step = largest / 127.0f;
          int64_t product = 0, total = 0;
          for (int64_t k = begin; k < end; ++k) {
            const auto code = static_cast<int64_t>(std::nearbyint(inputs.raw<float>(t * 70 + k) / step));
            product += code * bank.code(slot, n, k), total += code;
          }
          sum += static_cast<double>(step) * (slot.scale.at(n * slot.groups + block) * static_cast<double>(product) -
                                              slot.offset.at(n * slot.groups + block) * static_cast<double>(total));
        }
        expected.push_back(sum);
      }
    }
    CHECK(difference(reference(graph)[y], expected) < 1e-6);
    CHECK(difference(reference(graph)[y].values(), expected_rows(bank, 0, inputs, 6)) < 0.1);
  }
}

TEST_CASE("reference linear: mode int8 of zeros is zero, of a NaN or an infinity is NaN") {
  for (const double special :
       {0.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Case graph;
    const int x = graph.input(filled(MOE_F32, {1, 32}, special)),
              weight = graph.weight(random_bank({32, 4, 1, false, integer_part(MOE_I8, 0)}, 9));
    const int y = graph.output(MOE_F32, {1, 4}, 5);
    graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_INT8, MOE_F32}, {x, weight}, {y});
    for (const double value : reference(graph)[y].values()) CHECK((special == 0 ? value == 0 : std::isnan(value)));
  }
}

TEST_CASE("reference linear: wrong operands are refused at compile") {
  const auto compile = [](const Bank &bank, moe_linear attributes, int64_t in, int64_t out) {
    return failure([&] {
      Case graph;
      const int x = graph.input(filled(MOE_F32, {1, in})), weight = graph.weight(bank),
                y = graph.output(MOE_F32, {1, out});
      graph.node(MOE_LINEAR, attributes, {x, weight}, {y});
      Session(moe_backend_reference(), graph);
    });
  };
  const Bank bank = random_bank({4, 6, 1, false, float_part(MOE_F32)}, 1);
  CHECK(compile(bank, {MOE_NONE, MOE_EXACT, MOE_F32}, 4, 6).code == MOE_OK);
  CHECK(std::string(compile(bank, {MOE_NONE, MOE_EXACT, MOE_F32}, 5, 6).argument) == "x");
  CHECK(std::string(compile(bank, {MOE_NONE, MOE_EXACT, MOE_F32}, 4, 3).argument) == "y");
  CHECK(std::string(compile(bank, {MOE_SWIGLU, MOE_EXACT, MOE_F32}, 4, 6).argument) == "activation");
  CHECK(std::string(compile(bank, {MOE_NONE, MOE_INT8, MOE_F32}, 4, 6).argument) == "mode");
  CHECK(compile(random_bank({4, 6, 2, false, float_part(MOE_F32)}, 1), {MOE_NONE, MOE_EXACT, MOE_F32}, 4, 6).code ==
        MOE_INVALID_ARGUMENT);
}
