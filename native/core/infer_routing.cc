// Output types of the operations around routing, selection and statistics.
#include "core/infer.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"

namespace moe::infer {
namespace {

void check_choice(Inference &in, moe_route &route) {
  if (route.choice != MOE_CHOICE_TOP_K && route.expert_groups != 1)
    refuse_attribute(in, "expertGroups", "1 where choice is not 'top_k'", route.expert_groups);
  if (route.choice == MOE_CHOICE_EXPERT) {
    if (route.capacity == 0) refuse_attribute(in, "capacity", "at least 1 where choice is 'expert'", 0);
    want_presence(in, 1, false, "where choice is 'expert'");
  }
  if (route.experts % route.expert_groups != 0)
    refuse_attribute(in, "expertGroups", "a divisor of experts, " + std::to_string(route.experts), route.expert_groups);
  if (route.kept_groups > route.expert_groups)
    refuse_attribute(in, "keptGroups", "at most expertGroups, " + std::to_string(route.expert_groups),
                     route.kept_groups);
  const int64_t candidates = int64_t{route.experts} / route.expert_groups * route.kept_groups;
  if (route.top_k > candidates)
    refuse_attribute(in, "topK", "at most the " + std::to_string(candidates) + " experts that can be chosen",
                     route.top_k);
}

}  // namespace

void route(Inference &in) {
  moe_route &route = attributes_of<moe_route>(in);
  const bool chosen = has(in, 3);  // ids are given
  if (!chosen) {
    want_presence(in, 0, true, "where ids are not given");
    want_presence(in, 4, false, "where ids are not given");
    check_choice(in, route);
  } else {
    if (route.choice != MOE_CHOICE_TOP_K)
      throw Error(MOE_INVALID_ARGUMENT, attribute_name(in, "choice"), "'top_k' where ids are given",
                  route.choice == MOE_CHOICE_EXPERT ? "'expert'" : "'non_zero'");
    if (has(in, 0) == has(in, 4))
      want_presence(in, 4, !has(in, 0),
                    has(in, 0) ? "where logits give the gates of ids" : "where ids come without logits");
  }
  want_float(in, 0);
  want_shape(in, 0, {"tokens", int64_t{route.experts}});
  want_float(in, 1);
  want_shape(in, 1, {int64_t{route.experts}});
  want_constant(in, 1);
  want_dtype(in, 2, MOE_I32);
  want_shape(in, 2, {int64_t{route.experts}});
  want_constant(in, 2);
  if (has(in, 2) && route.slots == 0) refuse_attribute(in, "slots", "the number of groups where groupOf is given", 0);
  if (!has(in, 2) && route.slots == 0) route.slots = route.experts;
  if (!has(in, 2) && route.slots != route.experts)
    refuse_attribute(in, "slots", std::to_string(route.experts) + ", the experts, where there is no groupOf",
                     route.slots);
  want_dtype(in, 3, MOE_I32);
  if (chosen) want_shape(in, 3, {"tokens", int64_t{route.top_k}});
  const moe_dim tokens = chosen ? dim_of(in, 3, 0) : dim_of(in, 0, 0);
  want_shape(in, 0, {tokens, int64_t{route.experts}});
  want_float(in, 4);
  want_shape(in, 4, {tokens, int64_t{route.top_k}});

  const moe_dim choices = fixed_dim(route.top_k);
  const moe_dim rows{checked_multiply(tokens.factor, route.top_k, "route.topK"), tokens.symbol};
  set_output(in, 0, make_type(MOE_I32, {tokens, choices}));
  set_output(in, 1, make_type(MOE_F32, {tokens, choices}));
  set_output(in, 2, make_type(MOE_I32, {tokens, choices}));
  set_output(in, 3, make_type(MOE_I32, {rows}));
  set_output(in, 4, make_type(MOE_F32, {rows}));
  set_output(in, 5, make_type(MOE_I32, {fixed_dim(int64_t{route.slots} + 1)}));
}

void combine(Inference &in) {
  want_dtype(in, 1, MOE_I32);
  want_shape(in, 1, {"tokens", "topK"});
  const moe_dim &tokens = dim_of(in, 1, 0), &choices = dim_of(in, 1, 1);
  const moe_dim rows{checked_multiply(tokens.factor, choices.factor, "combine.rowOf"), tokens.symbol};
  want_float(in, 0);
  want_shape(in, 0, {rows, "width"});
  const moe_dim &width = dim_of(in, 0, 1);
  want_dtype(in, 2, MOE_F32);
  want_shape(in, 2, {rows});
  for (const int slot : {3, 4, 5}) {
    if (has(in, 6)) want_presence(in, slot, false, "where onto is given");
    want_float(in, slot);
  }
  if (!has(in, 3)) want_presence(in, 4, false, "without shared");
  want_shape(in, 3, {tokens, width});
  want_shape(in, 4, {tokens, int64_t{1}});
  want_shape(in, 5, {tokens, width});
  want_dtype(in, 6, MOE_I32);
  want_shape(in, 6, {tokens, choices});
  set_output(in, 0, make_type(attributes_of<moe_combine>(in).dtype, {has(in, 6) ? rows : tokens, width}));
}

void take(Inference &in) {
  if (type_of(in, 0).dtype != MOE_I32) want_float(in, 0);
  want_shape(in, 0, {"rows", "width"});
  want_dtype(in, 1, MOE_I32);
  want_shape(in, 1, {"indices"});
  set_output(in, 0, make_type(type_of(in, 0).dtype, {dim_of(in, 1, 0), dim_of(in, 0, 1)}));
}

void score(Inference &in) {
  const int32_t top_k = attributes_of<moe_score>(in).top_k;
  want_float(in, 0);
  want_shape(in, 0, {"tokens", "vocabulary"});
  const moe_dim &tokens = dim_of(in, 0, 0);
  want_dtype(in, 1, MOE_I32);
  want_shape(in, 1, {tokens});
  if (top_k > dim_of(in, 0, 1).factor)
    refuse_attribute(in, "topK", "at most the vocabulary, " + std::to_string(dim_of(in, 0, 1).factor), top_k);
  if (top_k == 0) want_presence(in, 1, true, "where topK is 0");
  if (has(in, 1)) set_output(in, 0, make_type(MOE_F32, {tokens}));
  if (top_k > 0) {
    set_output(in, 1, make_type(MOE_I32, {tokens, fixed_dim(top_k)}));
    set_output(in, 2, make_type(MOE_F32, {tokens, fixed_dim(top_k)}));
  }
}

void accumulate(Inference &in) {
  const int32_t statistic = attributes_of<moe_accumulate>(in).statistic;
  want_dtype(in, 4, MOE_F64);
  want_state(in, 4);
  if (statistic == MOE_COUNT) {
    for (const int slot : {1, 2, 3}) want_presence(in, slot, false, "where statistic is 'count'");
    want_dtype(in, 0, MOE_I32);
    want_shape(in, 0, {"tokens", "choices"});
    want_shape(in, 4, {"experts"});
    return;
  }
  want_float(in, 0);
  want_shape(in, 0, {"rows", "width"});
  const moe_dim &rows = dim_of(in, 0, 0), &width = dim_of(in, 0, 1);
  if (statistic != MOE_GRAM) want_presence(in, 1, false, "where statistic is not 'gram'");
  want_float(in, 1);
  want_shape(in, 1, {rows, "width"});
  want_dtype(in, 2, MOE_I32);
  want_shape(in, 2, {"slots + 1"});
  want_dtype(in, 3, MOE_F32);
  want_shape(in, 3, {rows});
  const bool grouped = has(in, 2);
  if (grouped && (dim_of(in, 2, 0).symbol >= 0 || dim_of(in, 2, 0).factor < 2))
    throw Error(MOE_SHAPE_MISMATCH, operand_name(in, 2), "[slots + 1] of a fixed number of slots",
                print_type(type_of(in, 2), in.symbols));
  const Want slots = grouped ? dim_of(in, 2, 0).factor - 1 : int64_t{1};
  const Want other = has(in, 1) ? dim_of(in, 1, 1) : width;
  if (statistic == MOE_NORM_SUM) return want_shape(in, 4, {slots});
  if (statistic == MOE_SUM) return grouped ? want_shape(in, 4, {slots, width}) : want_shape(in, 4, {width});
  grouped ? want_shape(in, 4, {slots, width, other}) : want_shape(in, 4, {width, other});
}

}  // namespace moe::infer
