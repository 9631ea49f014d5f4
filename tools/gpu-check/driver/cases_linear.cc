// linear over every form of a bank, dense and grouped; and a whole layer.
#include <algorithm>

#include "check_case.h"

namespace moe::gpu_check {

using test::Shape;
using test::symbol;

namespace {

moe_part random_store(Random &random, int32_t kind) {
  moe_part part = float_part(random.float_dtype(), kind);
  if (random.chance(35)) return part;
  part = integer_part(random.pick({MOE_I8, MOE_I4, MOE_I4}), random.pick({MOE_F16, MOE_F32}),
                      kind != MOE_PART_SPARSE && random.chance(), random.pick({0, 32, 64, 128}));
  part.kind = kind;
  return part;
}

// One to all of the parts that a bank may have; mostly a base alone.
std::vector<moe_part> random_parts(Random &random, int64_t out) {
  std::vector<moe_part> parts;
  const bool alone = random.chance(55);
  if (alone || random.chance(70))
    parts.push_back(random.chance(12) ? dual_part(MOE_I4, random.pick({MOE_F16, MOE_F32}), random.pick({32, 64, 128}))
                                      : random_store(random, MOE_PART_BASE));
  if (!alone && (parts.empty() || random.chance())) {
    const auto rank = static_cast<int32_t>(random.pick<int64_t>({1, 8, 16, random.between(1, 40)}));
    for (const int32_t kind : {MOE_PART_FACTOR_IN, MOE_PART_FACTOR_OUT}) {
      parts.push_back(float_part(random.float_dtype(), kind));
      parts.back().size = rank;
    }
  }
  if (!alone && random.chance(40)) {
    parts.push_back(random_store(random, MOE_PART_ROWS));
    parts.back().size = static_cast<int32_t>(random.between(1, std::min<int64_t>(out, 20)));
  }
  if (!alone && random.chance(40)) {
    moe_part part = random_store(random, MOE_PART_SPARSE);
    part.m = random.pick({4, 4, 8, 16});
    part.n = static_cast<int32_t>(random.pick<int64_t>({part.m / 2, random.between(1, part.m - 1)}));
    parts.push_back(part);
  }
  if (random.chance(30)) parts.push_back(bias_part());
  return parts;
}

bool integer(const std::vector<moe_part> &parts) {
  return std::any_of(parts.begin(), parts.end(), [](const moe_part &part) { return integer_store(part.store); });
}

moe_linear random_linear(Random &random, const std::vector<moe_part> &parts, int64_t in, CheckCase &made) {
  moe_linear linear{random.pick<int32_t>({MOE_NONE, MOE_NONE, MOE_RELU, MOE_GELU, MOE_GELU_TANH, MOE_SILU, MOE_SWIGLU,
                                          MOE_SWIGLU, MOE_GEGLU}),
                    integer(parts) && random.chance() ? MOE_INT8 : MOE_EXACT, random.float_dtype()};
  made.bound = linear.activation <= MOE_RELU ? Bound::sum : Bound::chain;
  made.k = in + 4;  // products of one part; a few sums of parts
  for (const moe_part &part : parts) made.k += part.kind == MOE_PART_FACTOR_OUT ? part.size : 0;
  made.name += describe(parts) + (linear.mode == MOE_INT8 ? ", int8" : ", exact") + ", activation " +
               std::to_string(linear.activation);
  return linear;
}

}  // namespace

CheckCase dense_case(Random &random) {
  CheckCase made{"dense "};
  const int64_t tokens = add_tokens(made, random, random.pick<int64_t>({8, 40, 150})), in = any_width(random, 1024),
                out = any_width(random, 512);
  const std::vector<moe_part> parts = random_parts(random, out);
  const moe_linear linear = random_linear(random, parts, in, made);
  const bool gated = linear.activation >= MOE_SWIGLU;
  const int weight = made.weight(random_bank({in, gated ? 2 * out : out, 1, gated, parts}, random));
  const int x = made.graph.input(random.normals(random.float_dtype(), {tokens, in}), {symbol(0), in});
  const int residual =
      random.chance(30) ? made.graph.input(random.normals(random.float_dtype(), {tokens, out}), {symbol(0), out}) : -1;
  made.graph.node(MOE_LINEAR, linear, {x, weight, -1, -1, residual},
                  {made.graph.output(linear.dtype, {symbol(0), out})});
  made.name += ", " + std::to_string(tokens) + " x " + std::to_string(in) + " to " + std::to_string(out);
  return made;
}

CheckCase grouped_case(Random &random) {
  CheckCase made{"grouped "};
  test::Case &graph = made.graph;
  const int64_t tokens = add_tokens(made, random, random.pick<int64_t>({8, 40, 100})), in = any_width(random, 512),
                out = any_width(random, 256), slots = random.pick<int64_t>({1, 4, 9, 60}),
                top = random.between(1, std::min<int64_t>(slots, 4));
  BankShape shape{in, out, static_cast<int32_t>(slots)};
  shape.parts = random_parts(random, out);
  const moe_linear linear = random_linear(random, shape.parts, in, made);
  shape.gated = linear.activation >= MOE_SWIGLU;
  if (shape.gated) shape.out = 2 * out;
  const bool based = shape.parts.front().kind == MOE_PART_BASE;
  const bool sized =
      std::any_of(shape.parts.begin(), shape.parts.end(), [](const auto &part) { return part.size > 0; });
  if (based && slots > 2 && random.chance(20)) {
    for (int64_t s = 0; s < slots; ++s) shape.base_of.push_back(static_cast<int32_t>(s % (slots / 2)));
  } else if (!sized && random.chance(20)) {
    for (int64_t s = 0; s < slots; ++s) {
      shape.in_of.push_back(s % 3 == 0 ? in : random.between(1, in));
      shape.out_of.push_back(shape.gated ? 2 * random.between(1, out) : random.between(1, out));
    }
    made.name += ", widths differ";
  }
  if (!shape.base_of.empty()) made.name += ", shared bases";
  const int weight = made.weight(random_bank(shape, random));

  const Shape choices{symbol(0), top}, rows{symbol(0, top)};
  const int ids = graph.input(random.integers({tokens, top}, -1, slots - 1), choices);
  const int gates = graph.input(random.normals(MOE_F32, {tokens, top}), choices);
  const int token_of = graph.inner(MOE_I32, rows), offsets = graph.output(MOE_I32, {slots + 1});
  const auto count = static_cast<int32_t>(slots);
  graph.node(MOE_ROUTE, moe_route{MOE_SOFTMAX, static_cast<int32_t>(top), 0, 0, count, count, 1, 1, 1.0F, 0, 0, 0},
             {-1, -1, -1, ids, gates},
             {graph.inner(MOE_I32, choices), graph.inner(MOE_F32, choices), graph.inner(MOE_I32, choices), token_of,
              graph.inner(MOE_F32, rows), offsets});
  const bool gather = random.chance(80);
  const int32_t dtype = random.float_dtype();
  const int x = gather ? graph.input(random.normals(dtype, {tokens, in}), {symbol(0), in})
                       : graph.input(random.normals(dtype, {tokens * top, in}), {symbol(0, top), in});
  const int y = graph.output(linear.dtype, {symbol(0, top), out});
  made.rows_below[y] = offsets;
  graph.node(MOE_LINEAR, linear, {x, weight, gather ? token_of : -1, offsets}, {y});
  made.name += ", " + std::to_string(tokens) + " tokens, " + std::to_string(top) + " of " + std::to_string(slots) +
               ", " + std::to_string(in) + " to " + std::to_string(out);
  return made;
}

// norm, router, experts, combine: what a decoder's MoE block is.
CheckCase layer_case(Random &random) {
  const int64_t hidden = 32 * random.between(1, 6), wide = 32 * random.between(1, 4),
                experts = random.pick<int64_t>({8, 32, 60}), top = random.between(1, 4);
  CheckCase made{"layer " + std::to_string(hidden), Bound::chain, hidden};
  test::Case &graph = made.graph;
  const int64_t tokens = add_tokens(made, random, 30);
  const Shape flow{symbol(0), hidden}, choices{symbol(0), top}, rows{symbol(0, top)};
  const int x = graph.input(random.normals(MOE_F32, {tokens, hidden}), flow), normed = graph.inner(MOE_F32, flow);
  graph.node(MOE_NORM, moe_norm{MOE_RMS, static_cast<int32_t>(hidden), 1e-6F},
             {x, graph.constant(random.normals(MOE_F32, {hidden}))}, {normed});
  const int logits = graph.inner(MOE_F32, {symbol(0), experts});
  graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_EXACT, MOE_F32},
             {normed, made.weight(random_bank({hidden, experts, 1, false, {float_part(MOE_BF16)}}, random))}, {logits});
  const auto count = static_cast<int32_t>(experts);
  const int row_of = graph.inner(MOE_I32, choices), token_of = graph.inner(MOE_I32, rows),
            gate_of = graph.inner(MOE_F32, rows), offsets = graph.inner(MOE_I32, {experts + 1});
  graph.node(MOE_ROUTE, moe_route{MOE_SOFTMAX, static_cast<int32_t>(top), 1, 0, count, count, 1, 1, 1.0F, 0, 0, 0},
             {logits},
             {graph.output(MOE_I32, choices), graph.inner(MOE_F32, choices), row_of, token_of, gate_of, offsets});
  const moe_part form = integer_part(MOE_I4, MOE_F16, true, 32);
  const int up = made.weight(random_bank({hidden, 2 * wide, count, true, {form}}, random)),
            down = made.weight(random_bank({wide, hidden, count, false, {form}}, random));
  const int inner = graph.inner(MOE_F32, {symbol(0, top), wide}),
            outer = graph.inner(MOE_F32, {symbol(0, top), hidden});
  graph.node(MOE_LINEAR, moe_linear{MOE_SWIGLU, MOE_EXACT, MOE_F32}, {normed, up, token_of, offsets}, {inner});
  graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_EXACT, MOE_F32}, {inner, down, -1, offsets}, {outer});
  graph.node(MOE_COMBINE, moe_combine{MOE_F32}, {outer, row_of, gate_of, -1, -1, x}, {graph.output(MOE_F32, flow)});
  return made;
}

const std::vector<Family> &families() {
  static const std::vector<Family> all{
      {"embed", embed_case, 1},
      {"norm", norm_case, 1},
      {"rotate", rotate_case, 1},
      {"map", map_case, 2},
      {"take", take_case, 1},
      {"convolve", convolve_case, 1},
      {"attention", attention_case, 2},
      {"score", score_case, 1},
      {"accumulate", accumulate_case, 1},
      {"route", route_case, 3},
      {"combine", combine_case, 1},
      {"dense", dense_case, 5},
      {"grouped", grouped_case, 5},
      {"layer", layer_case, 1},
  };
  return all;
}

}  // namespace moe::gpu_check
