// y = activation(Base·x + B·(A·x) + S·x + kept rows·x + bias) + residual, dense or by slots of a bank; gated: silu(gate) ·
// up or gelu_tanh(gate) · up.
// x [T or R, in], y [T or R, out; out/2 where gated], slot s owns rows offsets[s] … offsets[s+1]. Columns past a slot's
// own width: 0. MOE_INT8, for each integer part: step = max|x| / 127 in f32 for each block of a row of x, code = x /
// step in f32, rounded half to even, within ±127;
//   z = Σ_blocks step · (scale · Σ code_w·code_x − offset · Σ code_x). A block with a NaN or an infinity: step NaN,
//   codes 0.
// Rounding: sums in double (the integer sums are exact in it), one rounding to the dtype of y. MOE_AUTO is exact here.
// Bound: multiplications. Each row of a part is decoded once and used for all rows of x.
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

// x as a part of the bank sees it.
struct Seen {
  std::vector<double> values;  // [T, in]: x itself, or in mode int8 its codes
  std::vector<float> steps;    // [T, blocks]; empty: x itself
  int64_t block = 0, blocks = 0;
};

Seen see(const Tensor &x, int64_t block, bool codes) {
  Seen seen;
  const int64_t in = x.width();
  for (int64_t i = 0; i < x.elements(); ++i) seen.values.push_back(x.at(i));
  if (!codes) return seen;
  seen.block = block > 0 ? block : in;
  seen.blocks = ceil_divide(in, seen.block);
  seen.steps.resize(static_cast<size_t>(x.rows() * seen.blocks));
  for (int64_t i = 0; i < x.rows() * seen.blocks; ++i) {
    const int64_t begin = i % seen.blocks * seen.block;
    quantize(seen.values.data() + i / seen.blocks * in + begin, std::min(seen.block, in - begin),
             &seen.steps[static_cast<size_t>(i)]);
  }
  return seen;
}

constexpr int32_t row_kinds[] = {MOE_PART_BASE, MOE_PART_SPARSE, MOE_PART_ROWS};

// A row of a part, decoded: element j meets input columns[j].
struct Row {
  const moe_weight::Matrix *matrix;
  const Seen *seen;
  int64_t index;
  std::vector<double> values;  // or codes, where `seen` has steps
  std::vector<int64_t> columns;
};

Row decode(const moe_weight::Matrix &matrix, const Seen &seen, int64_t index, int64_t in) {
  Row row{&matrix, &seen, index, {}, {}};
  for (int64_t j = 0; j < matrix.columns; ++j) {
    const int64_t column = matrix.column(index, j);
    if (column >= in) continue;  // a sparse place past the inputs
    row.values.push_back(seen.steps.empty() ? matrix.value(index, j) : matrix.code(index, j));
    row.columns.push_back(column);
  }
  return row;
}

// The rows that output n of slot s sums over.
std::vector<Row> rows_of(const moe_weight &weight, const std::array<Seen, 3> &seen, int64_t s, int64_t n) {
  std::vector<Row> rows;
  const int64_t in = weight.in_of[static_cast<size_t>(s)];
  for (size_t i = 0; i < seen.size(); ++i) {
    const moe_weight::Matrix *matrix = weight.matrix(row_kinds[i], s);
    if (matrix == nullptr) continue;
    if (row_kinds[i] != MOE_PART_ROWS) rows.push_back(decode(*matrix, seen[i], n, in));
    for (int64_t r = 0; row_kinds[i] == MOE_PART_ROWS && r < matrix->rows; ++r) {
      if (matrix->kept_row(r) == n) rows.push_back(decode(*matrix, seen[i], r, in));
    }
  }
  return rows;
}

double multiply(const Row &row, int64_t t, int64_t in) {
  const double *x = row.seen->values.data() + t * in;
  if (row.seen->steps.empty()) {
    double sum = 0;
    for (size_t j = 0; j < row.values.size(); ++j) sum += row.values[j] * x[row.columns[j]];
    return sum;
  }
  double sum = 0;
  for (size_t j = 0; j < row.values.size();) {
    const int64_t block = row.columns[j] / row.seen->block;
    double product = 0, total = 0;
    for (; j < row.values.size() && row.columns[j] / row.seen->block == block; ++j) {
      product += row.values[j] * x[row.columns[j]];
      total += x[row.columns[j]];
    }
    sum += static_cast<double>(row.seen->steps[static_cast<size_t>(t * row.seen->blocks + block)]) *
           (row.matrix->scale_of(row.index, block) * product - row.matrix->offset_of(row.index, block) * total);
  }
  return sum;
}

// A·x of token t under slot s.
std::vector<double> shrink(const moe_weight &weight, int64_t s, const double *x) {
  std::vector<double> inner;
  const moe_weight::Matrix *a = weight.matrix(MOE_PART_FACTOR_IN, s);
  for (int64_t i = 0; a != nullptr && i < a->rows; ++i) {
    double sum = 0;
    for (int64_t k = 0; k < a->columns; ++k) sum += a->value(i, k) * x[k];
    inner.push_back(sum);
  }
  return inner;
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
  const int64_t out = weight.gated ? weight.out / 2 : weight.out, slots = weight.slots;
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
  return 0;
}

void run_linear(const Node &node) {
  const auto &[x, token_of, offsets, residual, y, weight, attributes] = operands(node);
  const int64_t in = weight.in, columns = y.width();
  const Seen itself = see(x, 0, false);
  std::array<Seen, 3> seen;
  for (size_t i = 0; i < seen.size(); ++i) {
    const moe_weight::Matrix *matrix = weight.matrix(row_kinds[i], 0);
    if (matrix != nullptr) seen[i] = see(x, matrix->block(), attributes.mode == MOE_INT8 && matrix->integer());
  }
  for (int64_t s = 0; s < weight.slots; ++s) {
    const auto [begin, end] = offsets ? slot_rows(offsets, s, y.rows()) : Range{0, y.rows()};
    if (begin >= end) continue;
    // Row r of y reads a token; one out of range reads as zeros, which only the bias outlives.
    const auto token = [&](int64_t r) { return token_of ? int64_t{token_of.integer(r)} : r; };
    const auto known = [&](int64_t r) { return token(r) >= 0 && token(r) < x.rows(); };
    std::vector<std::vector<double>> inner;
    for (int64_t r = begin; r < end; ++r)
      inner.push_back(known(r) ? shrink(weight, s, itself.values.data() + token(r) * in) : std::vector<double>{});
    const moe_weight::Matrix *out = weight.matrix(MOE_PART_FACTOR_OUT, s), *bias = weight.matrix(MOE_PART_BIAS, s);
    const auto sum = [&](const std::vector<Row> &rows, int64_t r, int64_t n) {
      double z = bias == nullptr ? 0 : bias->value(n, 0);
      if (!known(r)) return z;
      for (const Row &row : rows) z += multiply(row, token(r), in);
      const std::vector<double> &t = inner[static_cast<size_t>(r - begin)];
      for (size_t j = 0; j < t.size(); ++j) z += out->value(n, static_cast<int64_t>(j)) * t[j];
      return z;
    };
    const int64_t own = weight.out_of[static_cast<size_t>(s)] / (weight.gated ? 2 : 1);
    for (int64_t n = 0; n < columns; ++n) {
      const std::vector<Row> rows = n < own ? rows_of(weight, seen, s, n) : std::vector<Row>{};
      const std::vector<Row> up = n < own && weight.gated ? rows_of(weight, seen, s, n + own) : std::vector<Row>{};
      for (int64_t r = begin; r < end; ++r) {
        double value = 0;
        if (n < own && weight.gated) {
          value = activate(attributes.activation == MOE_SWIGLU ? MOE_SILU : MOE_GELU_TANH, sum(rows, r, n)) *
                  sum(up, r, n + own);
        } else if (n < own) {
          value = activate(attributes.activation, sum(rows, r, n));
        }
        if (residual) value += residual.at(r * columns + n);
        y.set(r * columns + n, value);
      }
    }
  }
}

}  // namespace moe::reference
