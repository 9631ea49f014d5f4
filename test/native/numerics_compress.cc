// Neurons, GPTQ and SparseGPT against their definitions, done plainly.
#include <algorithm>
#include <limits>
#include <numeric>

#include "core_check.h"
#include "moe/half.h"
#include "numerics/gptq.h"
#include "numerics/neurons.h"
#include "numerics/parallel.h"
#include "numerics/sparse_gpt.h"
#include "numerics_matrix.h"

using namespace moe::numerics;

namespace {

using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Neurons one by one, D and P updated in full.
void remove_plainly(RowMajor d, const RowMajor &h, double ridge, std::vector<int32_t> &order,
                    std::vector<double> &curve) {
  const int64_t n = h.rows();
  RowMajor p = (h + ridge * RowMajor::Identity(n, n)).inverse();
  std::vector<bool> gone(static_cast<size_t>(n));
  double most = 0;
  for (int64_t step = 0; step < n; ++step) {
    int64_t best = -1;
    double least = std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j < n; ++j) {
      const double cost = d.col(j).squaredNorm() / p(j, j);
      if (gone[static_cast<size_t>(j)] || !(cost < least)) continue;
      least = cost;
      best = j;
    }
    const RowMajor row = p.row(best) / p(best, best);
    const RowMajor column = p.col(best), weights = d.col(best);
    d -= weights * row;
    p -= column * row;
    gone[static_cast<size_t>(best)] = true;
    order.push_back(static_cast<int32_t>(best));
    curve.push_back(most = std::max(most, least));
  }
}

int code_at(const std::vector<uint8_t> &values, int64_t columns, int64_t row, int64_t column) {
  const uint8_t byte = values[static_cast<size_t>(row * ((columns + 1) / 2) + column / 2)];
  const int nibble = column % 2 ? byte >> 4 : byte & 15;
  return nibble >= 8 ? nibble - 16 : nibble;
}

}  // namespace

TEST_CASE("neuron_curve removes what the plain algorithm does, across the blocks of updates") {
  for (const int64_t width : {1, 5, 47, 48, 49, 130}) {
    CAPTURE(width);
    const int64_t hidden = 70;
    const RowMajor d = random_matrix(hidden, width, 21);
    for (const int64_t samples : {2 * width, width / 2 + 1}) {
      const RowMajor h = random_gram(width, samples, 22);
      const double ridge = 1e-3 * h.trace() / static_cast<double>(width) + 1e-6;
      std::vector<int32_t> expected;
      std::vector<double> expected_curve;
      remove_plainly(d, h, ridge, expected, expected_curve);
      std::vector<int32_t> order(static_cast<size_t>(width));
      std::vector<double> curve(order.size());
      neuron_curve(Operand::of(d.data(), width), h.data(), hidden, width, ridge, order.data(), curve.data());
      CHECK(order == expected);
      for (size_t i = 0; i < curve.size(); ++i) CHECK(curve[i] == doctest::Approx(expected_curve[i]).epsilon(1e-7));
      const Floats single = d.cast<float>();
      neuron_curve(Operand::of(single.data(), width), h.data(), hidden, width, ridge, order.data(), curve.data());
      CHECK(curve.back() == doctest::Approx(expected_curve.back()).epsilon(1e-5));
    }
  }
}

TEST_CASE("refit_neurons minimizes the error that the curve counts, and refuses indices out of order") {
  const int64_t hidden = 20, width = 60, count = 25;
  const RowMajor d = random_matrix(hidden, width, 23), h = random_gram(width, 90, 24);
  const double ridge = 0.7;
  const RowMajor damped = h + ridge * RowMajor::Identity(width, width);
  std::vector<int32_t> order(width), kept;
  std::vector<double> curve(width);
  neuron_curve(Operand::of(d.data(), width), h.data(), hidden, width, ridge, order.data(), curve.data());
  kept.assign(order.end() - count, order.end());
  std::sort(kept.begin(), kept.end());
  RowMajor to(hidden, count);
  refit_neurons(Operand::of(d.data(), width), h.data(), hidden, width, ridge, kept.data(), count, to.data());
  RowMajor change = -d;
  for (int64_t j = 0; j < count; ++j) change.col(kept[static_cast<size_t>(j)]) += to.col(j);
  // The gradient over the kept columns vanishes.
  const RowMajor gradient = change * damped;
  for (const int32_t j : kept) CHECK(gradient.col(j).cwiseAbs().maxCoeff() < 1e-9);
  std::swap(kept[3], kept[4]);
  CHECK(error_of([&] {
          refit_neurons(Operand::of(d.data(), width), h.data(), hidden, width, ridge, kept.data(), count, to.data());
        }).starts_with("INVALID_ARGUMENT kept: expected rising indices below 60"));
}

TEST_CASE("gptq: under an identity statistic it is round to nearest; under others its error is lower") {
  const int64_t rows = 9, columns = 150;
  const Floats w = random_matrix(rows, columns, 25).cast<float>();
  const RowMajor identity = RowMajor::Identity(columns, columns), h = random_gram(columns, 100, 26);
  for (const bool offset : {true, false}) {
    GptqOptions options;
    options.form.offset = offset;
    const int64_t groups = (columns + 31) / 32;
    std::vector<uint8_t> values(static_cast<size_t>(rows * columns / 2));
    std::vector<uint16_t> scale(static_cast<size_t>(rows * groups)), shift(scale.size());
    Floats nearest(rows, columns), made(rows, columns);
    gptq(w.data(), identity.data(), rows, columns, options,
         {values.data(), scale.data(), offset ? shift.data() : nullptr, nearest.data()});
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        const auto at = static_cast<size_t>(i * groups + j / 32);
        const float step = moe::f16_to_f32(scale[at]), zero = offset ? moe::f16_to_f32(shift[at]) : 0;
        const int code = code_at(values, columns, i, j);
        CHECK(nearest(i, j) == doctest::Approx(step * static_cast<float>(code) - zero).epsilon(1e-6));
        CHECK((std::abs(nearest(i, j) - w(i, j)) <= 0.5001f * std::abs(step) || code == -8 || code == 7));
      }
    for (const bool by_size : {false, true}) {
      options.by_size = by_size;
      gptq(w.data(), h.data(), rows, columns, options,
           {values.data(), scale.data(), offset ? shift.data() : nullptr, made.data()});
      const auto error = [&](const Floats &other) {
        const RowMajor change = (other - w).cast<double>();
        return (change * h * change.transpose()).trace();
      };
      CHECK(error(made) < 0.8 * error(nearest));
    }
  }
}

TEST_CASE("gptq and sparse_gpt refuse what is not finite or out of range, and are the same for any number of threads") {
  const int64_t rows = 40, columns = 96;
  Floats w = random_matrix(rows, columns, 27).cast<float>();
  const RowMajor h = random_gram(columns, 200, 28);
  std::vector<uint8_t> values(static_cast<size_t>(rows * columns));
  std::vector<float> scale(static_cast<size_t>(rows * 3)), offset(scale.size());
  Floats to(rows, columns), first(rows, columns);
  GptqOptions options;
  options.form.half = false;
  const GptqTarget target{values.data(), scale.data(), offset.data(), to.data()};
  for (const int threads : {1, 3, 5}) {
    thread_limit = threads;
    gptq(w.data(), h.data(), rows, columns, options, target);
    if (threads == 1) first = to;
    CHECK(to == first);
  }
  for (const int threads : {1, 3, 5}) {
    thread_limit = threads;
    sparse_gpt(w.data(), h.data(), rows, columns, {}, values.data(), to.data());
    if (threads == 1) first = to;
    CHECK(to == first);
  }
  thread_limit = 0;
  CHECK(error_of([&] { sparse_gpt(w.data(), h.data(), rows, columns, {5, 4}, values.data(), to.data()); }) ==
        "INVALID_ARGUMENT n: expected 1 … 4, got 5");
  CHECK(error_of([&] {
          sparse_gpt(w.data(), h.data(), rows, columns, {2, 4, -1}, values.data(), to.data());
        }).starts_with("INVALID_ARGUMENT damping"));
  w(1, 2) = std::numeric_limits<float>::infinity();
  CHECK(error_of([&] {
          gptq(w.data(), h.data(), rows, columns, options, target);
        }).starts_with("INVALID_ARGUMENT weight"));
}

TEST_CASE("sparse_gpt keeps n of m everywhere, short last runs and dead inputs included") {
  const int64_t rows = 7, columns = 134;
  const Floats w = random_matrix(rows, columns, 29).cast<float>();
  RowMajor h = random_gram(columns, 300, 30);
  h.row(6).setZero();
  h.col(6).setZero();
  for (const auto &[n, m] : {std::pair<int64_t, int64_t>{2, 4}, {1, 8}, {3, 7}, {4, 4}, {1, 200}}) {
    CAPTURE(m);
    std::vector<uint8_t> mask(static_cast<size_t>(rows * columns));
    Floats to(rows, columns);
    sparse_gpt(w.data(), h.data(), rows, columns, {n, m}, mask.data(), to.data());
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t start = 0; start < columns; start += m) {
        const int64_t width = std::min(m, columns - start);
        int64_t kept = 0;
        for (int64_t j = start; j < start + width; ++j) {
          kept += mask[static_cast<size_t>(i * columns + j)];
          CHECK((mask[static_cast<size_t>(i * columns + j)] != 0 || to(i, j) == 0));
        }
        const bool has_dead = start <= 6 && 6 < start + width;
        CHECK((kept == std::min(n, width) || (has_dead && kept == std::min(n, width) - 1)));
      }
    for (int64_t i = 0; i < rows; ++i) CHECK(to(i, 6) == 0);
  }
}
