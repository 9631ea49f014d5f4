// Adds a statistic of this run into an f64 state: count of ids; Σ g^p · x; Σ g^p · ‖x‖₂; Σ g^p · aᵀ b, for all rows or
// by slot. a [R or T, Wa], b [R or T, Wb], state [S,] Wa / 1 / Wa·Wb. An id outside the state is not counted. Rounding:
// every sum in double. Bound: Wa·Wb multiplications a row (gram), else bytes of a.
#include <cmath>

#include "reference.h"

namespace moe::reference {

namespace {

struct Operands {
  const Tensor &a, &b, &offsets, &gate_of, &state;
  const moe_accumulate &attributes;

  const Tensor &second() const { return b ? b : a; }
  int64_t slots() const { return offsets ? offsets.elements() - 1 : 1; }
  int64_t part() const {  // elements of a slot's part of the state
    if (attributes.statistic == MOE_SUM) return a.width();
    return attributes.statistic == MOE_NORM_SUM ? 1 : checked_multiply(a.width(), second().width(), "state");
  }
};

Operands operands(const Node &node) {
  const auto &in = node.input;
  return {in[0], in[1], in[2], in[3], in[4], node.as<moe_accumulate>()};
}

void add(const Tensor &state, int64_t index, double value) { state.set(index, state.at(index) + value); }

void count(const Operands &o) {
  for (int64_t i = 0; i < o.a.elements(); ++i) {
    const int64_t id = o.a.integer(i);
    if (id >= 0 && id < o.state.elements()) add(o.state, id, 1);
  }
}

void add_row(const Operands &o, int64_t row, int64_t begin, double *converted) {
  const int64_t width = o.a.width(), second = o.second().width();
  const double gate = o.gate_of ? std::pow(o.gate_of.at(row), o.attributes.gate_power) : 1;
  double square = 0;
  switch (o.attributes.statistic) {
    case MOE_SUM:
      for (int64_t i = 0; i < width; ++i) add(o.state, begin + i, gate * o.a.at(row * width + i));
      break;
    case MOE_NORM_SUM:
      for (int64_t i = 0; i < width; ++i) square += o.a.at(row * width + i) * o.a.at(row * width + i);
      add(o.state, begin, gate * std::sqrt(square));
      break;
    default:
      for (int64_t j = 0; j < second; ++j) converted[j] = o.second().at(row * second + j);
      for (int64_t i = 0; i < width; ++i) {
        const double value = gate * o.a.at(row * width + i);
        for (int64_t j = 0; j < second; ++j) add(o.state, begin + i * second + j, value * converted[j]);
      }
  }
}

}  // namespace

int64_t plan_accumulate(const Node &node) {
  const Operands o = operands(node);
  const auto &[statistic, power] = o.attributes;
  expect(statistic >= MOE_COUNT && statistic <= MOE_GRAM, "statistic", "a statistic from 0 to 3", statistic);
  expect(power >= 0 && power <= 2, "gatePower", "0, 1 or 2", power);
  expect_dtype(o.state, MOE_F64, "state");
  expect(o.state.role == MOE_ROLE_STATE, "state", "the role state", o.state.role);
  if (statistic == MOE_COUNT) return expect_dtype(o.a, MOE_I32, "a"), 0;
  expect_float(o.a, "a");
  if (o.b) {
    expect_float(o.b, "b");
    expect(o.b.rows() == o.a.rows(), "b", std::to_string(o.a.rows()) + " rows", o.b.rows());
  }
  if (o.offsets) {
    expect_dtype(o.offsets, MOE_I32, "offsets");
    expect(o.offsets.elements() >= 1, "offsets", "slots + 1 elements", o.offsets.elements());
  }
  if (o.gate_of) expect_dtype(o.gate_of, MOE_F32, "gateOf"), expect_count(o.gate_of, o.a.rows(), "gateOf");
  expect_count(o.state, checked_multiply(o.slots(), o.part(), "state"), "state");
  return checked_multiply(o.second().width(), 8, "scratch");
}

void run_accumulate(const Node &node) {
  const Operands o = operands(node);
  if (o.attributes.statistic == MOE_COUNT) return count(o);
  for (int64_t s = 0; s < o.slots(); ++s) {
    const auto [begin, end] = o.offsets ? slot_rows(o.offsets, s, o.a.rows()) : Range{0, o.a.rows()};
    for (int64_t row = begin; row < end; ++row) add_row(o, row, s * o.part(), reinterpret_cast<double *>(node.scratch));
  }
}

}  // namespace moe::reference
