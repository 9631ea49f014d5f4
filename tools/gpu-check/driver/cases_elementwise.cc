// Operations on rows: embed, norm, rotate, map, take, convolve, score.
#include <cmath>

#include "check_case.h"

namespace moe::gpu_check {

using test::Array;
using test::Shape;
using test::symbol;

int64_t add_tokens(CheckCase &made, Random &random, int64_t most) {
  const int64_t tokens = random.pick<int64_t>({1, 2, random.between(1, most), most});
  made.graph.symbol_of(tokens);
  made.runs = {{random.between(1, tokens)}, {0}};
  return tokens;
}

int64_t any_width(Random &random, int64_t most) {
  return std::min(most, random.pick<int64_t>({1, random.between(2, 70), 4 * random.between(1, 40),
                                              8 * random.between(1, 40), 64 * random.between(1, 16)}));
}

CheckCase embed_case(Random &random) {
  CheckCase made{"embed", Bound::element};
  const int64_t tokens = add_tokens(made, random, 40), vocabulary = random.between(1, 50),
                width = any_width(random, 1024);
  const int32_t table = random.float_dtype(), dtype = random.float_dtype();
  made.graph.node(MOE_EMBED, moe_embed{static_cast<float>(random.normal()), dtype},
                  {made.graph.input(random.integers({tokens}, -2, vocabulary + 1), {symbol(0)}),
                   made.graph.constant(random.normals(table, {vocabulary, width}))},
                  {made.graph.output(dtype, {symbol(0), width})});
  return made;
}

CheckCase norm_case(Random &random) {
  const int32_t kind = random.pick({MOE_RMS, MOE_LAYER}), dtype = random.float_dtype();
  const int64_t width = any_width(random, 1024), runs = random.pick<int64_t>({1, 1, 3, 8});
  CheckCase made{"norm " + std::to_string(runs) + " x " + std::to_string(width), Bound::sum, width};
  const int64_t tokens = add_tokens(made, random, 40);
  const bool residual = random.chance();
  const Shape rows{symbol(0), runs * width};
  const auto flow = [&](int32_t of) { return made.graph.input(random.normals(of, {tokens, runs * width}), rows); };
  const auto constant = [&](bool there) {
    return there ? made.graph.constant(random.normals(random.float_dtype(), {width})) : -1;
  };
  const int x = flow(dtype), weight = constant(random.chance(80)),
            bias = constant(kind == MOE_LAYER && random.chance());
  std::vector<int> outputs{made.graph.output(dtype, rows)};
  const int32_t other = random.float_dtype();
  const int added = residual ? flow(other) : -1;
  if (residual) outputs.push_back(made.graph.output(other, rows));
  made.graph.node(MOE_NORM, moe_norm{kind, static_cast<int32_t>(width), 1e-5F}, {x, weight, bias, added}, outputs);
  return made;
}

CheckCase rotate_case(Random &random) {
  CheckCase made{"rotate", Bound::transcendental};
  const int64_t tokens = add_tokens(made, random, 40), half = random.between(1, 64), heads = random.between(1, 9),
                frequencies = random.between(1, half), width = heads * 2 * half;
  const int32_t dtype = random.float_dtype();
  Array turns = test::filled(MOE_F32, {frequencies});
  for (int64_t i = 0; i < frequencies; ++i)
    turns.set(i, std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(frequencies)));
  made.graph.node(MOE_ROTATE,
                  moe_rotate{static_cast<int32_t>(heads), random.chance() ? 1 : 0, random.chance() ? 1.0F : 1.25F},
                  {made.graph.input(random.normals(dtype, {tokens, width}), {symbol(0), width}),
                   made.graph.input(random.integers({tokens}, 0, 5000), {symbol(0)}), made.graph.constant(turns)},
                  {made.graph.output(dtype, {symbol(0), width})});
  return made;
}

CheckCase map_case(Random &random) {
  const auto function = static_cast<int32_t>(random.between(MOE_FUNCTION_ADD, MOE_FUNCTION_TANH));
  CheckCase made{"map " + std::to_string(function), Bound::element};
  if (function == MOE_FUNCTION_CLAMP || function == MOE_FUNCTION_RELU) made.bound = Bound::exact;
  if (function >= MOE_FUNCTION_GELU) made.bound = Bound::transcendental;
  const int64_t tokens = add_tokens(made, random, 40), width = any_width(random, 1024);
  const int32_t dtype = random.float_dtype();
  const bool binary = function <= MOE_FUNCTION_MULTIPLY;
  const int64_t other = random.chance() ? width : 1;
  const int a = made.graph.input(random.normals(dtype, {tokens, width}, 2), {symbol(0), width});
  std::vector<int> inputs{a};
  if (binary)
    inputs.push_back(made.graph.input(random.normals(random.float_dtype(), {tokens, other}), {symbol(0), other}));
  made.graph.node(MOE_MAP, moe_map{function, -0.75F, 1.5F}, inputs, {made.graph.output(dtype, {symbol(0), width})});
  return made;
}

CheckCase take_case(Random &random) {
  CheckCase made{"take"};
  const int64_t rows = random.between(1, 60), count = add_tokens(made, random, 60), width = any_width(random, 512);
  const int32_t dtype = random.pick({MOE_F32, MOE_F16, MOE_BF16, MOE_I32});
  const Array from =
      dtype == MOE_I32 ? random.integers({rows, width}, -1000, 1000) : random.normals(dtype, {rows, width});
  made.graph.node(MOE_TAKE, moe_take{},
                  {made.graph.input(from), made.graph.input(random.integers({count}, -2, rows + 1), {symbol(0)})},
                  {made.graph.output(dtype, {symbol(0), width})});
  return made;
}

CheckCase convolve_case(Random &random) {
  const int64_t width = random.between(2, 7), channels = any_width(random, 300), sequences = random.between(1, 4);
  const bool silu = random.chance();
  CheckCase made{"convolve", silu ? Bound::chain : Bound::sum, width + 3};
  const int64_t tokens = add_tokens(made, random, 30);
  const int32_t dtype = random.float_dtype();
  Array sequence = test::filled(MOE_I32, {tokens}), positions = sequence;
  for (int64_t t = 0, s = random.pick<int64_t>({-1, 0}), p = random.between(0, 3); t < tokens; ++t, ++p) {
    if (random.chance(20)) ++s, p = random.pick<int64_t>({0, 4});
    sequence.set(t, static_cast<double>(s));
    positions.set(t, static_cast<double>(p));
  }
  const int x = made.graph.input(random.normals(dtype, {tokens, channels}), {symbol(0), channels});
  const int weight = made.graph.constant(random.normals(random.float_dtype(), {channels, width}));
  const int bias = random.chance() ? made.graph.constant(random.normals(MOE_F32, {channels})) : -1;
  made.graph.node(MOE_CONVOLVE, moe_convolve{silu ? MOE_SILU : MOE_NONE},
                  {x, weight, bias, made.graph.input(sequence, {symbol(0)}), made.graph.input(positions, {symbol(0)}),
                   made.graph.state(random.normals(MOE_F32, {sequences, (width - 1) * channels}))},
                  {made.graph.output(dtype, {symbol(0), channels})});
  return made;
}

CheckCase score_case(Random &random) {
  CheckCase made{"score", Bound::transcendental};
  const int64_t vocabulary = random.pick<int64_t>({1, random.between(2, 300), random.between(1000, 5000)}),
                tokens = add_tokens(made, random, 20), top = random.between(0, std::min<int64_t>(vocabulary, 12));
  const int32_t dtype = random.float_dtype();
  const int logits = made.graph.input(random.normals(dtype, {tokens, vocabulary}, 3), {symbol(0), vocabulary});
  const bool given = top == 0 || random.chance();
  const int ids = given ? made.graph.input(random.integers({tokens}, -1, vocabulary - 1), {symbol(0)}) : -1;
  std::vector<int> outputs{-1, -1, -1};
  if (given) outputs[0] = made.graph.output(MOE_F32, {symbol(0)});
  if (top > 0) outputs[1] = made.graph.output(MOE_I32, {symbol(0), top});
  if (top > 0) outputs[2] = made.graph.output(MOE_F32, {symbol(0), top});
  made.graph.node(MOE_SCORE, moe_score{static_cast<int32_t>(top)}, {logits, ids}, outputs);
  return made;
}

}  // namespace moe::gpu_check
