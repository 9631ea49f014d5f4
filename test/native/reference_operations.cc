// The reference against numbers worked out by hand, one operation after the other.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "backend_harness.h"

extern "C" const moe_backend *moe_backend_reference(void);

namespace {

using namespace moe::test;

const double not_a_number = std::numeric_limits<double>::quiet_NaN(),
             infinity = std::numeric_limits<double>::infinity();
// Deferred and poisoned: whatever passes here passes at once too.
const char *const foreign = "foreign=1";

std::vector<Array> reference(const Case &graph) { return run(moe_backend_reference(), graph, foreign); }

double silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace

TEST_CASE("reference stores with one rounding, half to even") {
  // 1 + 2^-8 is half way between two bf16, a little more (lost in f32) must round up.
  Case graph;
  const int a = graph.input(f32({2, 1}, {1, 1})), b = graph.input(f32({2, 1}, {0x1p-8, 0x1p-8 + 0x1p-31}));
  const int y = graph.output(MOE_BF16, {2, 1});
  graph.node(MOE_MAP, moe_map{MOE_FUNCTION_ADD, 1, 1}, {a, b}, {y});
  CHECK(reference(graph)[y].values() == std::vector<double>{1, 1 + 0x1p-7});
}

TEST_CASE("reference embed: scale, other dtypes, ids out of range") {
  Case graph;
  const int ids = graph.input(i32({4}, {1, -1, 0, 2})),
            table = graph.constant(moe::test::array(MOE_F16, {2, 2}, {1, 2, 3, 4}));
  const int y = graph.output(MOE_BF16, {4, 2}, 7);
  graph.node(MOE_EMBED, moe_embed{2, MOE_BF16}, {ids, table}, {y});
  CHECK(reference(graph)[y].values() == std::vector<double>{6, 8, 0, 0, 2, 4, 0, 0});
}

TEST_CASE("reference norm: rms with residual and sum, layer with bias, by runs of a width") {
  Case graph;
  const int x = graph.input(f32({1, 4}, {1, 1, 3, 3})), residual = graph.input(f32({1, 4}, {2, 3, 3, 5}));
  const int weight = graph.constant(f32({2}, {1, 2})), bias = graph.constant(f32({2}, {10, 20}));
  const int y = graph.output(MOE_F32, {1, 4}), sum = graph.output(MOE_F32, {1, 4}),
            layer = graph.output(MOE_F32, {1, 4});
  graph.node(MOE_NORM, moe_norm{MOE_RMS, 2, 0}, {x, weight, -1, residual}, {y, sum});
  graph.node(MOE_NORM, moe_norm{MOE_LAYER, 2, 3}, {sum, weight, bias}, {layer});
  const auto results = reference(graph);
  CHECK(results[sum].values() == std::vector<double>{3, 4, 6, 8});
  const double first = std::sqrt(12.5), second = std::sqrt(50);
  CHECK(difference(results[y], {3 / first, 8 / first, 6 / second, 16 / second}) < 1e-7);
  CHECK(difference(results[layer],
                   {-0.5 / std::sqrt(3.25) + 10, 1 / std::sqrt(3.25) + 20, -1 / 2.0 + 10, 2 / 2.0 + 20}) < 1e-7);
}

TEST_CASE("reference rotate: half split and interleaved, the rest passes through") {
  const float angle = 3.0f * 0.1f;
  const double c = std::cos(static_cast<double>(angle)) * 2, s = std::sin(static_cast<double>(angle)) * 2;
  for (const int interleaved : {0, 1}) {
    Case graph;
    const int x = graph.input(f32({1, 10}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
    const int positions = graph.input(i32({1}, {3})), frequencies = graph.constant(f32({2}, {0.1, 0}));
    const int y = graph.output(MOE_F32, {1, 10});
    graph.node(MOE_ROTATE, moe_rotate{2, interleaved, 2}, {x, positions, frequencies}, {y});
    const std::vector<double> half{c - 3 * s, 4, 3 * c + s, 8, 5, 6 * c - 8 * s, 14, 8 * c + 6 * s, 18, 10};
    const std::vector<double> pairs{c - 2 * s, 2 * c + s, 6, 8, 5, 6 * c - 7 * s, 7 * c + 6 * s, 16, 18, 10};
    CHECK(difference(reference(graph)[y], interleaved ? pairs : half) < 1e-6);
  }
}

TEST_CASE("reference map: every function, spread of one column, NaN passes") {
  const auto apply = [](moe_map attributes, const std::vector<double> &a) {
    Case graph;
    const int x = graph.input(f32({static_cast<int64_t>(a.size()), 1}, a)),
              y = graph.output(MOE_F32, {static_cast<int64_t>(a.size()), 1});
    graph.node(MOE_MAP, attributes, {x}, {y});
    return reference(graph)[y].values();
  };
  CHECK(apply({MOE_FUNCTION_SCALE, 2, 1}, {3, -1}) == std::vector<double>{7, -1});
  CHECK(apply({MOE_FUNCTION_CLAMP, -1, 1}, {3, -infinity, 0.5}) == std::vector<double>{1, -1, 0.5});
  CHECK(apply({MOE_FUNCTION_RELU, 0, 0}, {3, -2}) == std::vector<double>{3, 0});
  CHECK(difference(apply({MOE_FUNCTION_GELU, 0, 0}, {1, -2}), {0.8413447460685429, -0.04550026389635842}) < 1e-7);
  CHECK(difference(apply({MOE_FUNCTION_GELU_TANH, 0, 0}, {1, -2}), {0.8411919906082768, -0.0454023059122250}) < 1e-7);
  CHECK(difference(apply({MOE_FUNCTION_SILU, 0, 0}, {1, -2}), {silu(1), silu(-2)}) < 1e-7);
  CHECK(difference(apply({MOE_FUNCTION_SIGMOID, 0, 0}, {0, 2}), {0.5, 1 / (1 + std::exp(-2.0))}) < 1e-7);
  CHECK(difference(apply({MOE_FUNCTION_TANH, 0, 0}, {1}), {std::tanh(1.0)}) < 1e-7);
  for (int function = MOE_FUNCTION_SCALE; function <= MOE_FUNCTION_TANH; ++function)
    CHECK(std::isnan(apply({function, 1, 1}, {not_a_number})[0]));

  Case graph;
  const int a = graph.input(f32({2, 2}, {1, 2, 3, 4})), b = graph.input(f32({2, 1}, {10, 100})),
            wide = graph.input(f32({2, 2}, {1, 1, 1, 2}));
  const int product = graph.output(MOE_F32, {2, 2}), sum = graph.output(MOE_F32, {2, 2});
  graph.node(MOE_MAP, moe_map{MOE_FUNCTION_MULTIPLY, 0, 0}, {a, b}, {product});
  graph.node(MOE_MAP, moe_map{MOE_FUNCTION_ADD, 2, -1}, {a, wide}, {sum});
  const auto results = reference(graph);
  CHECK(results[product].values() == std::vector<double>{10, 20, 300, 400});
  CHECK(results[sum].values() == std::vector<double>{1, 3, 5, 6});
}

TEST_CASE("reference take: floats and integers, out of range gives zeros") {
  Case graph;
  const int x = graph.input(f32({2, 2}, {1, 2, 3, 4})), n = graph.input(i32({2, 1}, {5, 6})),
            index = graph.input(i32({4}, {1, 2, -1, 0}));
  const int y = graph.output(MOE_F32, {4, 2}, 9), m = graph.output(MOE_I32, {4, 1}, 9);
  graph.node(MOE_TAKE, moe_take{0}, {x, index}, {y});
  graph.node(MOE_TAKE, moe_take{0}, {n, index}, {m});
  const auto results = reference(graph);
  CHECK(results[y].values() == std::vector<double>{3, 4, 0, 0, 0, 0, 1, 2});
  CHECK(results[m].values() == std::vector<double>{6, 0, 0, 5});
}

TEST_CASE("reference score: log-probabilities, ties to the lower id, NaN lowest") {
  Case graph;
  const int logits = graph.input(
                f32({3, 3}, {0, std::log(2), 0, not_a_number, 5, 5, not_a_number, not_a_number, not_a_number})),
            ids = graph.input(i32({3}, {1, -1, 2}));
  const int of_ids = graph.output(MOE_F32, {3}, 9), top = graph.output(MOE_I32, {3, 3}),
            values = graph.output(MOE_F32, {3, 3});
  graph.node(MOE_SCORE, moe_score{3}, {logits, ids}, {of_ids, top, values});
  const auto results = reference(graph);
  CHECK(difference(results[of_ids], {std::log(0.5), 0, -std::log(3.0)}) < 1e-7);
  CHECK(results[top].values() == std::vector<double>{1, 0, 2, 1, 2, 0, 0, 1, 2});
  CHECK(results[values].at(0) == doctest::Approx(std::log(0.5)));
  CHECK(results[values].at(4) == doctest::Approx(std::log(0.5)));
}

TEST_CASE("reference accumulate: count, sum, norm and gram, whole and by slot") {
  Case graph;
  const int ids = graph.input(i32({2, 2}, {0, 2, 2, 7}));
  const int a = graph.input(f32({3, 2}, {3, 4, 1, 0, 0, 2})), b = graph.input(f32({3, 1}, {1, 10, 100}));
  const int offsets = graph.input(i32({3}, {0, 2, 3})), gate = graph.input(f32({3}, {1, 2, 3}));
  const int count = graph.state(filled(MOE_F64, {3}, 1)), sum = graph.state(filled(MOE_F64, {2}));
  const int norm = graph.state(filled(MOE_F64, {2})), gram = graph.state(filled(MOE_F64, {2, 2, 2})),
            cross = graph.state(filled(MOE_F64, {2, 1}));
  graph.node(MOE_ACCUMULATE, moe_accumulate{MOE_COUNT, 0}, {ids, -1, -1, -1, count}, {});
  graph.node(MOE_ACCUMULATE, moe_accumulate{MOE_SUM, 1}, {a, -1, -1, gate, sum}, {});
  graph.node(MOE_ACCUMULATE, moe_accumulate{MOE_NORM_SUM, 2}, {a, -1, offsets, gate, norm}, {});
  graph.node(MOE_ACCUMULATE, moe_accumulate{MOE_GRAM, 0}, {a, -1, offsets, -1, gram}, {});
  graph.node(MOE_ACCUMULATE, moe_accumulate{MOE_GRAM, 1}, {a, b, -1, gate, cross}, {});
  Session session(moe_backend_reference(), graph, foreign);
  session.run();
  CHECK(session.read(count).values() == std::vector<double>{2, 1, 3});
  CHECK(session.read(sum).values() == std::vector<double>{5, 10});
  CHECK(session.read(norm).values() == std::vector<double>{9, 18});
  CHECK(session.read(gram).values() == std::vector<double>{10, 12, 12, 16, 0, 0, 0, 4});
  CHECK(session.read(cross).values() == std::vector<double>{23, 604});
  session.run();
  CHECK(session.read(norm).values() == std::vector<double>{18, 36});
}

TEST_CASE("reference convolve: by hand, and one token at a time equals all at once") {
  Case small;
  const int x = small.input(f32({3, 1}, {1, 2, 3})), weight = small.constant(f32({1, 3}, {100, 10, 1})),
            bias = small.constant(f32({1}, {0.5}));
  const int sequence = small.input(i32({3}, {0, 0, 0})), positions = small.input(i32({3}, {4, 5, 6}));
  const int state = small.state(f32({1, 2}, {7, 8})), y = small.output(MOE_F32, {3, 1});
  small.node(MOE_CONVOLVE, moe_convolve{MOE_NONE}, {x, weight, bias, sequence, positions, state}, {y});
  const auto results = reference(small);
  CHECK(results[y].values() == std::vector<double>{781.5, 812.5, 123.5});
  CHECK(results[state].values() == std::vector<double>{2, 3});

  const int64_t tokens = 9, channels = 5, width = 4;
  const Array inputs = random_array(MOE_F32, {tokens, channels}, 1),
              weights = random_array(MOE_F32, {channels, width}, 2);
  const std::vector<double> sequences{1, 1, 1, 1, 0, 0, 0, 5, 2}, places{0, 1, 2, 3, 0, 1, 2, 0, 1};
  const auto build = [&](int64_t most, std::array<int, 5> &values) {
    Case graph;
    const auto t = symbol(graph.symbol_of(most));
    values[0] = graph.input(filled(MOE_F32, {most, channels}), {t, channels});
    const int taps = graph.constant(weights);
    values[1] = graph.input(filled(MOE_I32, {most}), {t});
    values[2] = graph.input(filled(MOE_I32, {most}), {t});
    values[3] = graph.state(filled(MOE_F32, {3, (width - 1) * channels}, 0.25));
    values[4] = graph.output(MOE_F32, {t, channels});
    graph.node(MOE_CONVOLVE, moe_convolve{MOE_SILU}, {values[0], taps, -1, values[1], values[2], values[3]},
               {values[4]});
    return graph;
  };
  std::array<int, 5> all{}, one{};
  Session together(moe_backend_reference(), build(tokens, all)), streaming(moe_backend_reference(), build(1, one));
  together.write(all[0], inputs);
  together.write(all[1], i32({tokens}, sequences));
  together.write(all[2], i32({tokens}, places));
  together.run();
  std::vector<double> streamed;
  for (int64_t t = 0; t < tokens; ++t) {
    Array row = filled(MOE_F32, {1, channels});
    for (int64_t c = 0; c < channels; ++c) row.set(c, inputs.at(t * channels + c));
    streaming.write(one[0], row);
    streaming.write(one[1], i32({1}, {sequences[static_cast<size_t>(t)]}));
    streaming.write(one[2], i32({1}, {places[static_cast<size_t>(t)]}));
    streaming.run();
    for (const double value : streaming.read(one[4]).values()) streamed.push_back(value);
  }
  CHECK(together.read(all[4]).values() == streamed);
  CHECK(together.read(all[3]).values() == streaming.read(one[3]).values());
}
