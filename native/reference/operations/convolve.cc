// y[t, c] = activation(Σ_i w[c, i] · x[t − (width − 1) + i, c] + bias[c]); earlier inputs of a sequence come from its
// state [(width − 1), C], oldest first, zeroed at position 0 and shifted by each token. A sequence out of range gives
// zeros. Rounding: the sum in double, rounded once; the state keeps x in f32. Bound: bytes of x, y and the states.
#include "reference.h"

namespace moe::reference {

namespace {

struct Operands {
  const Tensor &x, &weight, &bias, &sequence, &positions, &state, &y;
};

Operands operands(const Node &node) {
  const auto &in = node.input;
  return {in[0], in[1], in[2], in[3], in[4], in[5], node.output[0]};
}

}  // namespace

int64_t plan_convolve(const Node &node) {
  const Operands o = operands(node);
  const int32_t activation = node.as<moe_convolve>().activation;
  expect(activation == MOE_NONE || activation == MOE_SILU, "activation", "none (0) or silu (4)", activation);
  expect_float(o.x, "x");
  expect_float(o.weight, "weight");
  expect_dtype(o.sequence, MOE_I32, "sequence");
  expect_dtype(o.positions, MOE_I32, "positions");
  expect_dtype(o.state, MOE_F32, "state");
  expect_float(o.y, "y");
  expect(o.weight.rows() == o.x.width() && o.weight.width() >= 1, "weight", "a row for each channel", o.weight.rows());
  if (o.bias) expect_float(o.bias, "bias"), expect_count(o.bias, o.x.width(), "bias");
  expect_count(o.sequence, o.x.rows(), "sequence");
  expect_count(o.positions, o.x.rows(), "positions");
  expect_count(o.y, o.x.elements(), "y");
  const int64_t width = checked_multiply(o.weight.width() - 1, o.x.width(), "state");
  expect(o.state.width() == width, "state", "a width of " + std::to_string(width), o.state.width());
  return 0;
}

void run_convolve(const Node &node) {
  const Operands o = operands(node);
  const int64_t channels = o.x.width(), past = o.weight.width() - 1;
  for (int64_t t = 0; t < o.x.rows(); ++t) {
    const int64_t s = o.sequence.integer(t);
    for (int64_t c = 0; c < channels; ++c) {
      if (s < 0 || s >= o.state.rows()) {
        o.y.set(t * channels + c, 0);
        continue;
      }
      const auto place = [&](int64_t i) { return (s * past + i) * channels + c; };
      for (int64_t i = 0; o.positions.integer(t) == 0 && i < past; ++i) o.state.set(place(i), 0);
      const double now = o.x.at(t * channels + c);
      double sum = o.weight.at(c * (past + 1) + past) * now + (o.bias ? o.bias.at(c) : 0);
      for (int64_t i = 0; i < past; ++i) sum += o.weight.at(c * (past + 1) + i) * o.state.at(place(i));
      for (int64_t i = 0; i + 1 < past; ++i) o.state.set(place(i), o.state.at(place(i + 1)));
      if (past > 0) o.state.set(place(past - 1), now);
      o.y.set(t * channels + c, activate(node.as<moe_convolve>().activation, sum));
    }
  }
}

}  // namespace moe::reference
