// Elementwise functions of a [T, W] and, for add and multiply, b [T, W] or [T, 1]; y as a. NaN passes through all of
// them. Rounding: in double, rounded once to the dtype of y. Bound: bytes of a, b and y.
#include <cmath>

#include "reference.h"

namespace moe::reference {

namespace {

bool takes_two(int32_t function) { return function == MOE_FUNCTION_ADD || function == MOE_FUNCTION_MULTIPLY; }

double apply(const moe_map &attributes, double a, double b) {
  const double alpha = attributes.alpha, beta = attributes.beta;
  switch (attributes.function) {
    case MOE_FUNCTION_ADD:
      return alpha * a + beta * b;
    case MOE_FUNCTION_MULTIPLY:
      return a * b;
    case MOE_FUNCTION_SCALE:
      return alpha * a + beta;
    case MOE_FUNCTION_CLAMP: {
      const double raised = a < alpha ? alpha : a;
      return raised > beta ? beta : raised;
    }
    case MOE_FUNCTION_RELU:
      return activate(MOE_RELU, a);
    case MOE_FUNCTION_GELU:
      return activate(MOE_GELU, a);
    case MOE_FUNCTION_GELU_TANH:
      return activate(MOE_GELU_TANH, a);
    case MOE_FUNCTION_SILU:
      return activate(MOE_SILU, a);
    case MOE_FUNCTION_SIGMOID:
      return 1 / (1 + std::exp(-a));
    default:
      return std::tanh(a);
  }
}

}  // namespace

int64_t plan_map(const Node &node) {
  const Tensor &a = node.input[0], &b = node.input[1], &y = node.output[0];
  const int32_t function = node.as<moe_map>().function;
  expect_float(a, "a");
  expect_float(y, "y");
  expect_count(y, a.elements(), "y");
  expect(function >= MOE_FUNCTION_ADD && function <= MOE_FUNCTION_TANH, "fn", "a function from 0 to 9", function);
  if (takes_two(function)) {
    expect_float(b, "b");
    if (b.elements() != a.elements()) expect_count(b, a.rows(), "b");
  }
  return 0;
}

void run_map(const Node &node) {
  const Tensor &a = node.input[0], &b = node.input[1], &y = node.output[0];
  const auto &attributes = node.as<moe_map>();
  const bool two = takes_two(attributes.function), spread = two && b.elements() != a.elements();
  for (int64_t i = 0; i < a.elements(); ++i)
    y.set(i, apply(attributes, a.at(i), two ? b.at(spread ? i / a.width() : i) : 0));
}

}  // namespace moe::reference
