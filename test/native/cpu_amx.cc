// The tiles of AMX: their twin against plain products, and the linear kernels over them, twin or registers, against the sums
// that tdpbf16ps is documented to make (cpu_integers.cc has those of codes).
#define MOE_ISA amx_twin_test
#define MOE_TILE_TWIN
#include "cpu/simd/amx.h"
// The vocabulary first.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu_linear.h"

namespace {

using namespace moe::test;
using namespace moe::cpu::amx_twin_test;

std::mt19937 generator(1);
std::vector<uint8_t> random_bytes(size_t count) {
  std::uniform_int_distribution<int> byte(0, 255);
  std::vector<uint8_t> bytes(count);
  for (uint8_t &one : bytes) one = static_cast<uint8_t>(byte(generator));
  return bytes;
}

// Those over tiles that this machine has.
std::vector<std::string> tile_sets() {
  std::vector<std::string> names = instruction_sets();
  std::erase_if(names, [](const std::string &name) { return !name.starts_with("amx"); });
  return names;
}

Array product(const std::string &isa, const Bank &bank, const Array &x) {
  Case graph;
  const int input = graph.input(x), weight = graph.weight(bank);
  const int y = graph.output(MOE_F32, {x.shape[0], bank.form.out});
  graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_AUTO, MOE_F32}, {input, weight}, {y});
  return run(moe_backend_cpu(), graph, options(isa).c_str())[static_cast<size_t>(y)];
}

// What tdpbf16ps makes of c and a pair of bf16 rows: values at even and at odd places apart, then both together, then c.
float pair_sum(float c, const std::vector<uint16_t> &a, const std::vector<uint16_t> &b) {
  const auto normal = [](float value) {
    return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
  };
  const auto at = [&](const std::vector<uint16_t> &row, size_t i) { return normal(moe::bf16_to_f32(row[i])); };
  std::array<float, 2> sums{};
  for (size_t i = 0; i < a.size(); ++i) sums[i % 2] = normal(std::fma(at(a, i), at(b, i), sums[i % 2]));
  return normal(normal(c) + normal(sums[0] + sums[1]));
}

// The same by the twin: c, a and b in column and row 1 of tiles of two.
float twin_pair_sum(float c, const std::vector<uint16_t> &a, const std::vector<uint16_t> &b) {
  const auto inputs = static_cast<int64_t>(a.size());
  std::array<float, 4> sums{0, 0, 0, c};
  std::vector<uint16_t> rows(2 * a.size()), columns(2 * b.size());
  std::copy(a.begin(), a.end(), rows.begin() + inputs);
  for (size_t i = 0; i < b.size(); ++i) columns[i / 2 * 4 + 2 + i % 2] = b[i];
  Tiles tiles;
  TileShapes shapes;
  shapes.set(0, 2, 8);
  shapes.set(1, 2, inputs * 2);
  shapes.set(3, inputs / 2, 8);
  tiles.configure(shapes);
  tiles.load<0>(sums.data(), 8);
  tiles.load<1>(rows.data(), inputs * 2);
  tiles.load<3>(columns.data(), 8);
  tiles.multiply_pairs<0, 1, 3>();
  tiles.store<0>(sums.data(), 8);
  CHECK(sums[0] == 0);
  return sums[3];
}

std::vector<uint16_t> halves(const std::vector<double> &values) {
  std::vector<uint16_t> made;
  for (const double value : values) made.push_back(moe::f32_to_bf16(static_cast<float>(value)));
  return made;
}

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace

TEST_CASE("cpu amx: a product of pairs of bf16 adds and rounds in the documented order") {
  constexpr double tiny = 0x1p-126, infinity = std::numeric_limits<double>::infinity();
  struct Example {
    const char *name;
    double c;
    std::vector<double> a, b;
    double expected;
  };
  const std::vector<Example> examples = {
      {"even and odd places are summed apart", 0, {0x1p24, -0x1p24, 1, 1}, {1, 1, 1, 1}, 1},
      {"in order of the pairs", 0, {0x1p24, 0, 1, 0, -0x1p24, 0, 1, 0}, {1, 1, 1, 1, 1, 1, 1, 1}, 1},
      {"c comes last", 1, {0x1p24, -0x1p24}, {1, 1}, 1},
      {"ties go to even", 0x1p24, {1, 0, 0, 2}, {1, 0, 0, 1}, 0x1p24 + 4},
      {"the product is not rounded", 0, {-0x1p127, 0, 0x1p127, 0}, {1, 0, 2, 0}, 0x1p127},
      {"subnormal values count as 0", 0, {tiny / 2, 1}, {0x1p100, -tiny / 2}, 0},
      {"and c", tiny / 2, {0, 0}, {0, 0}, 0},
      {"subnormal products become 0", 0, {0x1p-100, 0}, {0x1p-30, 0}, 0},
      {"and sums", 0, {tiny * 1.5, 0, -tiny, 0, tiny, 0}, {1, 0, 1, 0, 1, 0}, tiny},
      {"and both sums together", 0, {tiny * 1.5, -tiny}, {1, 1}, 0},
      {"and with c", -tiny, {tiny * 1.5, 0}, {1, 0}, 0},
      {"infinity", 3, {infinity, 1}, {-2, 1}, -infinity},
      {"too large", 0, {0x1p127, 0}, {2, 0}, infinity},
  };
  for (const Example &example : examples) {
    CAPTURE(example.name);
    const auto c = static_cast<float>(example.c);
    const float sum = twin_pair_sum(c, halves(example.a), halves(example.b));
    CHECK(static_cast<double>(sum) == example.expected);
    CHECK(bits_of(sum) == bits_of(pair_sum(c, halves(example.a), halves(example.b))));
  }
  CHECK(std::isnan(twin_pair_sum(0, halves({infinity, 1}), halves({0, 1}))));
  CHECK(std::isnan(twin_pair_sum(0, halves({1, std::nan("")}), halves({1, 0}))));
  CHECK(std::isnan(twin_pair_sum(0, halves({infinity, infinity}), halves({1, -1}))));
  std::normal_distribution<double> normal;
  for (int count = 0; count < 200; ++count) {
    std::vector<double> a, b;
    for (int i = 0; i < 32; ++i) a.push_back(normal(generator)), b.push_back(normal(generator));
    const auto c = static_cast<float>(normal(generator));
    CHECK(bits_of(twin_pair_sum(c, halves(a), halves(b))) == bits_of(pair_sum(c, halves(a), halves(b))));
  }
}

TEST_CASE("cpu amx: bf16 adds steps of 32 inputs in order, for any number of rows and width") {
  for (const std::string &isa : tile_sets()) {
    for (const int64_t in : {1, 2, 31, 33, 256, 290, 545}) {
      constexpr int64_t most_rows = 40, out = 35;
      const Bank bank = random_bank({in, out, 1, false, float_part(MOE_BF16)}, 3);
      Array inputs = random_array(MOE_BF16, {most_rows, in}, 5);
      // Rows whose products and sums come near the smallest numbers, or are below them.
      for (int64_t k = 0; k < in; ++k) {
        inputs.set(k, inputs.at(k) * 0x1p-125);
        inputs.set(16 * in + k, k % 3 == 0 ? 0x1p-130 : inputs.at(16 * in + k) * 0x1p-120);
      }
      Array expected = filled(MOE_F32, {most_rows, out});
      for (int64_t row = 0; row < most_rows; ++row) {
        for (int64_t n = 0; n < out; ++n) {
          float sum = 0;
          for (int64_t k = 0; k < in; k += 32) {
            std::vector<double> x(32), w(32);
            for (int64_t i = 0; i < std::min<int64_t>(32, in - k); ++i) {
              x[static_cast<size_t>(i)] = inputs.at(row * in + k + i);
              w[static_cast<size_t>(i)] = bank.weight(0, n, k + i);
            }
            sum = pair_sum(sum, halves(x), halves(w));
          }
          expected.put(row * out + n, sum);
        }
      }
      for (const int64_t rows : {1, 2, 7, 8, 15, 16, 17, 31, 40}) {
        CAPTURE(isa);
        CAPTURE(in);
        CAPTURE(rows);
        const Array x{MOE_BF16, {rows, in}, {inputs.bytes.begin(), inputs.bytes.begin() + rows * in * 2}};
        const std::vector<std::byte> first(expected.bytes.begin(), expected.bytes.begin() + rows * out * 4);
        CHECK(product(isa, bank, x).bytes == first);
      }
    }
  }
}

TEST_CASE("cpu amx: a product of tiles is the product of the matrices that they hold") {
  for (const auto &[rows, columns, inputs] : {std::array{16, 16, 64}, {9, 16, 40}, {1, 3, 8}, {16, 1, 4}}) {
    CAPTURE(rows);
    CAPTURE(columns);
    CAPTURE(inputs);
    constexpr int stride = 80;  // of every matrix in memory
    const auto m = static_cast<size_t>(rows), n = static_cast<size_t>(columns), k = static_cast<size_t>(inputs);
    std::vector<uint8_t> a = random_bytes(16 * stride), b = random_bytes(16 * stride);
    a[0] = b[0] = 0x80, b[1] = 0xff;  // the furthest from 0
    std::vector<int32_t> start(16 * stride / 4), result;
    for (int32_t &one : start) one = static_cast<int32_t>(generator());
    result = start;
    Tiles tiles;
    TileShapes shapes;
    shapes.set(2, rows, columns * 4);
    shapes.set(5, rows, inputs);
    shapes.set(7, inputs / 4, columns * 4);
    tiles.configure(shapes);
    tiles.load<5>(a.data(), stride);
    tiles.load<7>(b.data(), stride);
    std::vector<int32_t> expected;
    for (const bool negative : {true, false}) {
      CAPTURE(negative);
      tiles.load<2>(start.data(), stride);
      if (negative) {
        tiles.multiply<2, 5, 7>();
      } else {
        tiles.multiply_unsigned<2, 5, 7>();
      }
      tiles.store<2>(result.data(), stride);
      expected = start;
      for (size_t i = 0; i < m; ++i) {
        for (size_t j = 0; j < n; ++j) {
          int64_t sum = start[i * stride / 4 + j];
          for (size_t at = 0; at < k; ++at) {  // input `at` of column j: byte at % 4 of its lane in row at / 4
            const uint8_t code = b[at / 4 * stride + j * 4 + at % 4];
            sum += static_cast<int8_t>(a[i * stride + at]) * (negative ? static_cast<int8_t>(code) : code);
          }
          expected[i * stride / 4 + j] = static_cast<int32_t>(sum);
        }
      }
      CHECK(result == expected);
    }
    tiles.zero<2>();
    tiles.store<2>(result.data(), stride);
    for (size_t i = 0; i < m; ++i) std::fill_n(expected.begin() + static_cast<int64_t>(i) * stride / 4, n, 0);
    CHECK(result == expected);
  }
}
