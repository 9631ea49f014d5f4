// The tiles of AMX: their twin against plain products, and the linear kernels over them, twin or registers, against avx512 to
// the bit.
#define MOE_ISA amx_twin_test
#define MOE_TILE_TWIN
#include "cpu/simd/amx.h"
// The vocabulary first.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
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

// Forms that int8 mode multiplies as integers.
struct Form {
  const char *name;
  moe_part part;
};
std::vector<Form> integer_forms() {
  return {
      {"i8 channel", integer_part(MOE_I8, 0, MOE_F32)},
      {"i8 32 offset", integer_part(MOE_I8, 32, MOE_F16, true)},
      {"i4 channel offset", integer_part(MOE_I4, 0, MOE_F16, true)},
      {"i4 32", integer_part(MOE_I4, 32, MOE_F32)},
      {"i4 64 offset", integer_part(MOE_I4, 64, MOE_F32, true)},
      {"i4 128", integer_part(MOE_I4, 128, MOE_F16)},
  };
}

// Those over tiles that this machine has.
std::vector<std::string> tile_sets() {
  std::vector<std::string> names = instruction_sets();
  std::erase_if(names, [](const std::string &name) { return !name.starts_with("amx"); });
  return names;
}

Array product(const std::string &isa, const Bank &bank, const Array &x, const std::vector<double> &offsets = {}) {
  Case graph;
  const int input = graph.input(x), weight = graph.weight(bank);
  const int y = graph.output(MOE_F32, {x.shape[0], bank.form.out});
  const int at = offsets.empty() ? -1 : graph.input(i32({static_cast<int64_t>(offsets.size())}, offsets));
  graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_INT8, MOE_F32}, {input, weight, -1, at}, {y});
  return run(moe_backend_cpu(), graph, options(isa).c_str())[static_cast<size_t>(y)];
}

}  // namespace

TEST_CASE("cpu amx: a product of tiles is the product of the matrices that they hold") {
  for (const auto &[rows, columns, inputs] : {std::array{16, 16, 64}, {9, 16, 40}, {1, 3, 8}, {16, 1, 4}}) {
    CAPTURE(rows);
    CAPTURE(columns);
    CAPTURE(inputs);
    constexpr int stride = 80;  // of every matrix in memory
    const auto m = static_cast<size_t>(rows), n = static_cast<size_t>(columns), k = static_cast<size_t>(inputs);
    std::vector<uint8_t> a = random_bytes(16 * stride), b = random_bytes(16 * stride);
    a[0] = 0x80, b[0] = 0xff;  // the furthest from 0
    std::vector<int32_t> start(16 * stride / 4), result;
    for (int32_t &one : start) one = static_cast<int32_t>(generator());
    result = start;
    Tiles tiles;
    TileShapes shapes;
    shapes.set(2, rows, columns * 4);
    shapes.set(5, rows, inputs);
    shapes.set(7, inputs / 4, columns * 4);
    tiles.configure(shapes);
    tiles.load<2>(start.data(), stride);
    tiles.load<5>(a.data(), stride);
    tiles.load<7>(b.data(), stride);
    tiles.multiply<2, 5, 7>();
    tiles.store<2>(result.data(), stride);
    std::vector<int32_t> expected = start;
    for (size_t i = 0; i < m; ++i) {
      for (size_t j = 0; j < n; ++j) {
        int64_t sum = start[i * stride / 4 + j];
        for (size_t at = 0; at < k; ++at) {  // input `at` of column j: byte at % 4 of its lane in row at / 4
          sum += static_cast<int8_t>(a[i * stride + at]) * b[at / 4 * stride + j * 4 + at % 4];
        }
        expected[i * stride / 4 + j] = static_cast<int32_t>(sum);
      }
    }
    CHECK(result == expected);
    tiles.zero<2>();
    tiles.store<2>(result.data(), stride);
    for (size_t i = 0; i < m; ++i) std::fill_n(expected.begin() + static_cast<int64_t>(i) * stride / 4, n, 0);
    CHECK(result == expected);
  }
}

TEST_CASE("cpu amx: every form of integers has the bits of avx512, for any number of rows and width") {
  for (const std::string &isa : tile_sets()) {
    for (const Form &form : integer_forms()) {
      for (const int64_t in : {8, 40, 704, 1100, 2880}) {
        const Bank bank = random_bank({in, 70, 1, false, form.part, true}, 3);
        for (const int64_t rows : {7, 8, 16, 17, 33, 96, 250}) {
          CAPTURE(isa);
          CAPTURE(form.name);
          CAPTURE(in);
          CAPTURE(rows);
          const Array x = random_array(MOE_F32, {rows, in}, 5);
          CHECK(product(isa, bank, x).bytes == product("avx512", bank, x).bytes);
        }
      }
    }
  }
}

TEST_CASE("cpu amx: slots of few and of many rows, and sums longer than an int32 holds, have the bits of avx512") {
  for (const std::string &isa : tile_sets()) {
    for (const Form &form : integer_forms()) {
      CAPTURE(isa);
      CAPTURE(form.name);
      const Bank experts = random_bank({160, 40, 5, false, form.part, true, {160, 96, 160, 37, 160}, {}}, 7);
      const Array x = random_array(MOE_F32, {150, 160}, 8);
      const std::vector<double> offsets{0, 100, 103, 112, 130, 150};
      CHECK(product(isa, experts, x, offsets).bytes == product("avx512", experts, x, offsets).bytes);
      const Bank wide = random_bank({66'000, 3, 1, false, form.part}, 9);
      const Array wide_x = random_array(MOE_F32, {18, 66'000}, 10);
      CHECK(product(isa, wide, wide_x).bytes == product("avx512", wide, wide_x).bytes);
    }
  }
}
