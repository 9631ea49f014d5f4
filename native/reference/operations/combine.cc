// y[t] = residual[t] + Σ gate_of[r] · rows[r] over the distinct rows r = row_of[t, j] ≥ 0 + sigmoid(shared_gate[t]) ·
// shared[t]. With onto the same terms go to the rows of a second routing: each distinct r to onto[t, j] of its first j.
// rows [R, H], row_of [T, K], gate_of [R], y [T or R, H]. Rounding: the sum in double, rounded once.
// Bound: bytes of the rows read and of y.
#include <cmath>

#include "reference.h"

namespace moe::reference {

namespace {

struct Operands {
  const Tensor &rows, &row_of, &gate_of, &shared, &shared_gate, &residual, &onto, &y;

  int64_t tokens() const { return row_of.rows(); }
  int64_t top_k() const { return row_of.width(); }
  // The row of a choice if it is the first of its token that names it, else −1.
  int64_t distinct_row(int64_t t, int64_t j) const {
    const int32_t row = row_of.integer(t * top_k() + j);
    if (row < 0 || row >= gate_of.elements()) return -1;
    for (int64_t before = 0; before < j; ++before) {
      if (row_of.integer(t * top_k() + before) == row) return -1;
    }
    return row;
  }
  double term(int64_t row, int64_t h) const { return gate_of.at(row) * rows.at(row * rows.width() + h); }
};

Operands operands(const Node &node) {
  const auto &in = node.input;
  return {in[0], in[1], in[2], in[3], in[4], in[5], in[6], node.output[0]};
}

void run_onto(const Operands &o) {
  const int64_t width = o.y.width(), top_k = o.top_k();
  const auto target = [&](int64_t t, int64_t j) { return o.onto.integer(t * top_k + j); };
  for (int64_t t = 0; t < o.tokens(); ++t) {
    for (int64_t j = 0; j < top_k; ++j) {
      const int64_t q = target(t, j);
      if (q < 0 || q >= o.y.rows()) continue;
      for (int64_t h = 0; h < width; ++h) {  // a later choice of the same q writes the same sum again
        double sum = 0;
        for (int64_t other = 0; other < top_k; ++other) {
          const int64_t row = target(t, other) == q ? o.distinct_row(t, other) : -1;
          if (row >= 0) sum += o.term(row, h);
        }
        o.y.set(q * width + h, sum);
      }
    }
  }
}

}  // namespace

int64_t plan_combine(const Node &node) {
  const Operands o = operands(node);
  expect_float(o.rows, "rows");
  expect_dtype(o.row_of, MOE_I32, "rowOf");
  expect_dtype(o.gate_of, MOE_F32, "gateOf");
  expect_float(o.y, "y");
  expect_count(o.gate_of, o.rows.rows(), "gateOf");
  expect(o.y.width() == o.rows.width(), "y", "a width of " + std::to_string(o.rows.width()), o.y.width());
  if (o.onto) {
    expect_dtype(o.onto, MOE_I32, "onto");
    expect_count(o.onto, o.row_of.elements(), "onto");
    expect(!o.shared && !o.shared_gate && !o.residual, "onto", "no shared, sharedGate and residual", 1);
    return 0;
  }
  expect(o.y.rows() == o.tokens(), "y", std::to_string(o.tokens()) + " rows", o.y.rows());
  if (o.shared) expect_float(o.shared, "shared"), expect_count(o.shared, o.y.elements(), "shared");
  if (o.residual) expect_float(o.residual, "residual"), expect_count(o.residual, o.y.elements(), "residual");
  if (o.shared_gate) expect_float(o.shared_gate, "sharedGate"), expect_count(o.shared_gate, o.tokens(), "sharedGate");
  expect(o.shared || !o.shared_gate, "sharedGate", "none without shared", 1);
  return 0;
}

void run_combine(const Node &node) {
  const Operands o = operands(node);
  if (o.onto) return run_onto(o);
  const int64_t width = o.y.width();
  for (int64_t t = 0; t < o.tokens(); ++t) {
    const double gate = o.shared_gate ? 1 / (1 + std::exp(-o.shared_gate.at(t))) : 1;
    for (int64_t h = 0; h < width; ++h) {
      double sum = o.residual ? o.residual.at(t * width + h) : 0;
      for (int64_t j = 0; j < o.top_k(); ++j) {
        const int64_t row = o.distinct_row(t, j);
        if (row >= 0) sum += o.term(row, h);
      }
      if (o.shared) sum += gate * o.shared.at(t * width + h);
      o.y.set(t * width + h, sum);
    }
  }
}

}  // namespace moe::reference
