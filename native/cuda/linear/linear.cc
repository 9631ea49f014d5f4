// linear: what it refuses, and which kernel multiplies.
#include <algorithm>
#include <string>

#include "host/launcher.h"
#include "host/node.h"
#include "linear/bank.h"
#include "linear/decode.h"
#include "linear/parts.h"
#include "linear/tiles.h"

namespace moe::cuda {
namespace {

void expect(bool holds, moe_code code, std::string_view argument, const std::string &expected, int64_t received) {
  if (!holds) throw Error(code, argument, expected, std::to_string(received));
}

void check(const Node &node) {
  const Operand &x = node.input[x_input], &token_of = node.input[token_of_input], &offsets = node.input[offsets_input],
                &residual = node.input[residual_input], &y = node.output[0];
  const auto &attributes = node.as<moe_linear>();
  if (node.input[weight_input].bank == nullptr) throw Error(MOE_INVALID_ARGUMENT, "weight", "a bank", "none");
  const Bank &bank = *node.input[weight_input].bank;
  const int32_t activation = attributes.activation, mode = attributes.mode;
  expect(activation >= MOE_NONE && activation <= MOE_GEGLU, MOE_INVALID_ARGUMENT, "activation",
         "an activation from 0 to 6", activation);
  expect((activation >= MOE_SWIGLU) == bank.gated(), MOE_INVALID_ARGUMENT, "activation",
         bank.gated() ? "a gated one: the bank is gated" : "one that is not gated", activation);
  expect(mode >= MOE_EXACT && mode <= MOE_AUTO, MOE_INVALID_ARGUMENT, "mode", "exact (0), int8 (1) or auto (2)", mode);
  expect(mode != MOE_INT8 || bank.integer(), MOE_INVALID_ARGUMENT, "mode", "exact or auto: the bank is of floats",
         mode);
  expect(x.width() == bank.in(), MOE_SHAPE_MISMATCH, "x", "a width of " + std::to_string(bank.in()), x.width());
  const int64_t columns = bank.gated() ? bank.out() / 2 : bank.out();
  expect(y.width() == columns, MOE_SHAPE_MISMATCH, "y", "a width of " + std::to_string(columns), y.width());
  if (offsets) {
    expect(offsets.dtype == MOE_I32, MOE_DTYPE_MISMATCH, "offsets", "i32", offsets.dtype);
    expect(offsets.elements() == bank.slots() + 1, MOE_SHAPE_MISMATCH, "offsets", std::to_string(bank.slots() + 1),
           offsets.elements());
    expect(!residual, MOE_INVALID_ARGUMENT, "residual", "none with offsets", 1);
  } else {
    expect(bank.slots() == 1, MOE_INVALID_ARGUMENT, "weight", "one slot where there are no offsets", bank.slots());
    expect(!token_of, MOE_INVALID_ARGUMENT, "tokenOf", "none without offsets", 1);
  }
  if (token_of) {
    expect(token_of.dtype == MOE_I32, MOE_DTYPE_MISMATCH, "tokenOf", "i32", token_of.dtype);
    expect(token_of.elements() == y.rows(), MOE_SHAPE_MISMATCH, "tokenOf", std::to_string(y.rows()),
           token_of.elements());
  } else {
    expect(x.rows() == y.rows(), MOE_SHAPE_MISMATCH, "y", std::to_string(x.rows()) + " rows", y.rows());
  }
  if (residual)
    expect(residual.elements() == y.elements(), MOE_SHAPE_MISMATCH, "residual", std::to_string(y.elements()),
           residual.elements());
}

}  // namespace

void launch_product(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher) {
  if (few_rows(arguments) || launcher.device().batch_invariant() || !tiles_can_run(launcher.device(), arguments)) {
    launch_decode(arguments, plan, launcher);
  } else {
    launch_tiles(arguments, plan, launcher);
  }
}

int64_t scratch_linear(const Device &, const Node &node) {
  if (!node.output[0]) return 0;
  check(node);
  return LinearParts(node).scratch_bytes();
}

void launch_linear(const Node &node, Launcher &launcher) {
  if (node.output[0]) LinearParts(node).launch(launcher);
}

}  // namespace moe::cuda
