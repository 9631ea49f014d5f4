// y = activation(x·Wᵀ + bias) + residual, dense or by slots of a bank; gated: silu(gate) · up or gelu_tanh(gate) · up.
// x [T or R, in], y [T or R, out; out/2 where gated], slot s owns rows offsets[s] … offsets[s+1]. Columns past a slot's
// own width: 0. MOE_INT8: step = max|x| / 127 in f32 for each block of a row of x, code = x / step in f32, rounded half
// to even, within ±127;
//   y = Σ_blocks step · (scale · Σ code_w·code_x − offset · Σ code_x). A block with a NaN or an infinity: step NaN,
//   codes 0.
// Rounding: sums in double (the integer sums are exact in it), one rounding to the dtype of y. MOE_AUTO is exact here.
// Bound: multiplications. Each row of W is decoded once and used for all rows of x.
#include <algorithm>
#include <cmath>
#include <limits>

#include "reference.h"

namespace moe::reference {

double activate(int32_t activation, double value) {
  constexpr double root_half = 0.70710678118654752440, root_two_over_pi = 0.79788456080286535588;
  switch (activation) {
    case MOE_RELU:
      return value < 0 ? 0 : value;
    case MOE_GELU:
      return value * 0.5 * std::erfc(-value * root_half);
    case MOE_GELU_TANH:
      return 0.5 * value * (1 + std::tanh(root_two_over_pi * (value + 0.044715 * value * value * value)));
    case MOE_SILU:
      return value / (1 + std::exp(-value));
    default:
      return value;
  }
}

namespace {

struct Operands {
  const Tensor &x, &token_of, &offsets, &residual, &y;
  const moe_weight &weight;
  const moe_linear &attributes;
};

Operands operands(const Node &node) {
  return {node.input[0],  node.input[2],         node.input[3],        node.input[4],
          node.output[0], *node.input[1].weight, node.as<moe_linear>()};
}

int64_t blocks_of(const moe_weight &weight) { return ceil_divide(weight.in, weight.group()); }

// One row of W as doubles: its values, or in mode int8 its codes.
void decode(const moe_weight &weight, bool codes, int64_t s, int64_t row, double *to) {
  if (!codes) return weight.decode(s, row, to);
  const moe_weight::Slot &slot = weight.slots[static_cast<size_t>(s)];
  const moe_weight::Part &base = *weight.part(s, MOE_PART_BASE);
  for (int64_t k = 0; k < slot.in; ++k) to[k] = weight.code(base, slot, row, k);
}

// Four sums, so that one addition need not wait for the one before.
double dot(const double *a, const double *b, int64_t count) {
  double sum[4] = {0, 0, 0, 0};
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    for (int64_t i = 0; i < 4; ++i) sum[i] += a[k + i] * b[k + i];
  }
  for (; k < count; ++k) sum[0] += a[k] * b[k];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Row of W times row of x in mode int8.
double dot_int8(const moe_weight &weight, int64_t s, int64_t row, const double *codes, const double *x,
                const float *steps) {
  const moe_weight::Slot &slot = weight.slots[static_cast<size_t>(s)];
  const moe_weight::Part &base = *weight.part(s, MOE_PART_BASE);
  double sum = 0;
  for (int64_t block = 0; block < slot.groups; ++block) {
    const int64_t begin = block * weight.group(), end = std::min(begin + weight.group(), slot.in);
    double total = 0;
    for (int64_t k = begin; k < end; ++k) total += x[k];
    const double product = dot(codes + begin, x + begin, end - begin);
    sum += static_cast<double>(steps[block]) *
           (weight.scale(base, slot, row, block) * product - weight.offset(base, slot, row, block) * total);
  }
  return sum;
}

void quantize(double *x, int64_t count, float *step) {
  float largest = 0;
  bool finite = true;
  for (int64_t k = 0; k < count; ++k) {
    finite = finite && std::isfinite(x[k]);
    largest = std::max(largest, std::abs(static_cast<float>(x[k])));
  }
  *step = finite ? largest / 127.0f : std::numeric_limits<float>::quiet_NaN();
  for (int64_t k = 0; k < count; ++k) {
    const bool zero = !finite || *step == 0;
    x[k] =
        zero ? 0 : static_cast<double>(std::clamp(std::nearbyint(static_cast<float>(x[k]) / *step), -127.0f, 127.0f));
  }
}

}  // namespace

int64_t plan_linear(const Node &node) {
  expect_float(node.input[0], "x");
  if (node.input[1].weight == nullptr) throw Error(MOE_INVALID_ARGUMENT, "weight", "a bank", "none");
  const auto &[x, token_of, offsets, residual, y, weight, attributes] = operands(node);
  expect_float(y, "y");
  const int32_t activation = attributes.activation, mode = attributes.mode;
  expect(activation >= MOE_NONE && activation <= MOE_GEGLU, "activation", "an activation from 0 to 6", activation);
  expect((activation >= MOE_SWIGLU) == weight.gated, "activation",
         weight.gated ? "a gated one: the bank is gated" : "one that is not gated", activation);
  expect(mode >= MOE_EXACT && mode <= MOE_AUTO, "mode", "exact (0), int8 (1) or auto (2)", mode);
  expect(mode != MOE_INT8 || weight.integer(), "mode", "exact or auto: the bank is of floats", mode);
  expect(x.width() == weight.in, "x", "a width of " + std::to_string(weight.in), x.width());
  const int64_t out = weight.gated ? weight.out / 2 : weight.out, slots = static_cast<int64_t>(weight.slots.size());
  expect(y.width() == out, "y", "a width of " + std::to_string(out), y.width());
  if (offsets) {
    expect_dtype(offsets, MOE_I32, "offsets");
    expect_count(offsets, slots + 1, "offsets");
    expect(!residual, "residual", "none with offsets", 1);
  } else {
    expect(slots == 1, "weight", "one slot where there are no offsets", slots);
    expect(!token_of, "tokenOf", "none without offsets", 1);
  }
  if (token_of) {
    expect_dtype(token_of, MOE_I32, "tokenOf");
    expect_count(token_of, y.rows(), "tokenOf");
  } else {
    expect(x.rows() == y.rows(), "y", std::to_string(x.rows()) + " rows", y.rows());
  }
  if (residual) {
    expect_float(residual, "residual");
    expect_count(residual, y.elements(), "residual");
  }
  const int64_t rows = checked_multiply(x.rows() + 2, weight.in, "scratch");
  return checked_add(checked_multiply(rows, 8, "scratch"), checked_multiply(x.rows() * blocks_of(weight), 4, "scratch"),
                     "scratch");
}

void run_linear(const Node &node) {
  const auto &[x, token_of, offsets, residual, y, weight, attributes] = operands(node);
  const bool int8 = attributes.mode == MOE_INT8;
  const int64_t in = weight.in, columns = y.width(), blocks = blocks_of(weight);
  auto *inputs = reinterpret_cast<double *>(node.scratch), *row = inputs + x.rows() * in, *up_row = row + in;
  auto *steps = reinterpret_cast<float *>(up_row + in);
  for (int64_t i = 0; i < x.elements(); ++i) inputs[i] = x.at(i);
  for (int64_t i = 0; int8 && i < x.rows() * blocks; ++i) {
    const int64_t begin = i % blocks * weight.group();
    quantize(inputs + i / blocks * in + begin, std::min(weight.group(), in - begin), steps + i);
  }
  for (int64_t s = 0; s < static_cast<int64_t>(weight.slots.size()); ++s) {
    const moe_weight::Slot &slot = weight.slots[static_cast<size_t>(s)];
    const auto [begin, end] = offsets ? slot_rows(offsets, s, y.rows()) : Range{0, y.rows()};
    if (begin >= end) continue;
    const int64_t own = weight.gated ? slot.out / 2 : slot.out;
    const auto product = [&](int64_t t, int64_t n, const double *values) {
      const bool known = t >= 0 && t < x.rows();
      const double sum = !known ? 0
                         : int8 ? dot_int8(weight, s, n, values, inputs + t * in, steps + t * blocks)
                                : dot(values, inputs + t * in, slot.in);
      return sum + weight.bias(s, n);
    };
    for (int64_t n = 0; n < columns; ++n) {
      if (n < own) decode(weight, int8, s, n, row);
      if (n < own && weight.gated) decode(weight, int8, s, n + own, up_row);
      for (int64_t r = begin; r < end; ++r) {
        const int64_t t = token_of ? token_of.integer(r) : r;
        double value = 0;
        if (n < own && weight.gated) {
          value = activate(attributes.activation == MOE_SWIGLU ? MOE_SILU : MOE_GELU_TANH, product(t, n, row)) *
                  product(t, n + own, up_row);
        } else if (n < own) {
          value = activate(attributes.activation, product(t, n, row));
        }
        if (residual) value += residual.at(r * columns + n);
        y.set(r * columns + n, value);
      }
    }
  }
}

}  // namespace moe::reference
