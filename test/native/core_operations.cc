#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "core/operations.h"
#include "core_check.h"

namespace {

template <typename Attributes>
Attributes encoded(std::string_view name, const moe::AttributeList &attributes) {
  const auto bytes = moe::encode_attributes(moe::find_operation(name), attributes);
  REQUIRE(bytes.size() == sizeof(Attributes));
  Attributes result;
  std::memcpy(&result, bytes.data(), sizeof result);
  return result;
}

std::string encode_error(std::string_view name, const moe::AttributeList &attributes) {
  return error_of([&] { moe::encode_attributes(moe::find_operation(name), attributes); });
}

}  // namespace

TEST_CASE("the table holds every operation in its place, with sound fields and slots") {
  REQUIRE(moe::operations().size() == MOE_OP_COUNT);
  for (int32_t op = 0; op < MOE_OP_COUNT; ++op) {
    const moe::Operation &operation = moe::operations()[static_cast<size_t>(op)];
    CHECK(operation.op == op);
    CHECK(&moe::find_operation(operation.name) == &operation);
    CHECK(operation.inputs.size() <= MOE_MAX_INPUTS);
    CHECK(operation.outputs.size() <= MOE_MAX_OUTPUTS);
    std::set<size_t> offsets;
    for (const moe::Field &field : operation.fields) {
      CHECK(field.offset + 4 <= operation.attribute_bytes);
      CHECK(offsets.insert(field.offset).second);
    }
    if (operation.op != MOE_TAKE) CHECK(offsets.size() * 4 == operation.attribute_bytes);  // no member is left out
    for (const int32_t slot : operation.written_inputs) CHECK(static_cast<size_t>(slot) < operation.inputs.size());
  }
  CHECK(error_of([] {
          moe::find_operation("matmul");
        }).starts_with("INVALID_ARGUMENT operation: expected embed, norm, linear"));
}

TEST_CASE("attributes: values, defaults and names") {
  const auto route = encoded<moe_route>(
      "route", {{"topK", 8.0}, {"experts", 64.0}, {"score", std::string("sigmoid")}, {"renormalize", true}});
  CHECK(route.top_k == 8);
  CHECK(route.score == MOE_SIGMOID);
  CHECK(route.renormalize == 1);
  CHECK(route.coalesce == 1);
  CHECK(route.expert_groups == 1);
  CHECK(route.scale == 1.0f);
  CHECK(encoded<moe_embed>("embed", {{"dtype", std::string("bf16")}}).dtype == MOE_BF16);
  CHECK(encoded<moe_convolve>("convolve", {{"activation", std::string("silu")}}).activation == MOE_SILU);
  const auto add = encoded<moe_map>("map", {{"function", std::string("add")}});
  CHECK(add.alpha == 1.0f);
  CHECK(add.beta == 1.0f);
  const auto scale = encoded<moe_map>("map", {{"function", std::string("scale")}, {"alpha", 3.0}});
  CHECK(scale.alpha == 3.0f);
  CHECK(scale.beta == 0.0f);
}

TEST_CASE("attributes: what is wrong is named with the range and the value") {
  CHECK(encode_error("linear", {{"mode", std::string("fast")}}) ==
        "INVALID_ARGUMENT linear.mode: expected 'exact', 'int8', 'auto', got 'fast'");
  CHECK(encode_error("linear", {{"mode", 1.0}}).ends_with("got 1"));
  CHECK(encode_error("route", {{"experts", 8.0}, {"topK", 0.0}}) ==
        "INVALID_ARGUMENT route.topK: expected an integer 1 … 2147483647, got 0");
  for (const double bad : {1.5, -1.0, 3e9, std::nan(""), std::numeric_limits<double>::infinity()})
    CHECK(encode_error("route", {{"experts", 8.0}, {"topK", bad}}).starts_with("INVALID_ARGUMENT route.topK"));
  CHECK(encode_error("route", {{"experts", 8.0}}).ends_with("got nothing"));
  CHECK(encode_error("route", {{"renormalize", 1.0}}) ==
        "INVALID_ARGUMENT route.renormalize: expected true or false, got 1");
  CHECK(encode_error("norm", {{"epsilon", std::nan("")}})
            .starts_with("INVALID_ARGUMENT norm.epsilon: expected a finite number ≥ 0"));
  CHECK(encode_error("norm", {{"epsilon", 1e300}}).starts_with("INVALID_ARGUMENT norm.epsilon"));
  CHECK(encode_error("norm", {{"eps", 1.0}}) ==
        "INVALID_ARGUMENT norm.eps: expected one of the attributes kind, width, epsilon, got 'eps'");
  CHECK(encode_error("take", {{"axis", 1.0}}).starts_with("INVALID_ARGUMENT take.axis: expected no attributes"));
  CHECK(encode_error("embed", {{"dtype", std::string("i32")}}).starts_with("INVALID_ARGUMENT embed.dtype"));
  CHECK(encode_error("convolve", {{"activation", std::string("")}})
            .starts_with("INVALID_ARGUMENT convolve.activation: expected 'none', 'silu'"));
  CHECK(encode_error("map", {{"function", std::string("clamp")}, {"alpha", 0.0}})
            .starts_with("INVALID_ARGUMENT map.beta"));
  CHECK(encode_error("map", {{"function", std::string("clamp")}, {"alpha", 2.0}, {"beta", 1.0}}) ==
        "INVALID_ARGUMENT map.beta: expected at least alpha, 2, got 1");
}

TEST_CASE("cost of a grouped linear counts the slots that rows can touch") {
  const moe::WeightInfo weight{64, 32, 8, false, false, false, 8 * 1000, 64 * 32};
  const moe_type x = moe::make_type(MOE_F32, {{1, 0}, {64, -1}}), token_of = moe::make_type(MOE_I32, {{2, 0}});
  const moe_type offsets = moe::make_type(MOE_I32, {{9, -1}}), y = moe::make_type(MOE_F32, {{2, 0}, {32, -1}});
  const moe::Operand operands[] = {{x}, {{}, MOE_ROLE_WEIGHT, &weight}, {token_of}, {offsets}};
  moe::CostContext context{};
  for (size_t i = 0; i < 4; ++i) context.input[i] = &operands[i];
  context.output[0] = &y;
  for (const int64_t tokens : {0, 1, 3, 100}) {
    context.sizes = {&tokens, 1};
    const moe::Cost cost = moe::find_operation("linear").cost(context);
    const int64_t rows = 2 * tokens;
    CHECK(cost.bytes == std::min<int64_t>(8, rows) * 1000 + tokens * 64 * 4 + rows * 4 + 36 + rows * 32 * 4);
    CHECK(cost.operations == 2 * rows * 64 * 32);
  }
}
